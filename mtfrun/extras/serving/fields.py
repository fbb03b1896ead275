"""The fields of a request's JSON object, and the error of a request that cannot be answered."""

from __future__ import annotations

import json
import traceback
from collections.abc import Collection, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from mtfrun.configuration.errors import one_line
from mtfrun.display import progress
from mtfrun.errors import InputError, did_you_mean, shorten
from mtfrun.errors.checks import Range
from mtfrun.errors.untrusted import JsonError, parse_json

_TYPES = {401: "authentication_error", 503: "overloaded_error", 500: "server_error"}
_HEADERS = {
    503: {"Retry-After": "1"},
    # A connection that has had an answer is among the last to be dropped: this one is closed.
    401: {"WWW-Authenticate": "Bearer", "Connection": "close"},
}


class RequestError(Exception):
    """A request that is refused, with an HTTP status and the name of a wrong field."""

    def __init__(self, message: str, status: int = 400, field: str | None = None):
        super().__init__(message)
        self.message, self.status, self.field = message, status, field

    @property
    def body(self) -> dict[str, Any]:
        """JSON in OpenAI's form."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.field, "code": None}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body, self.status, _HEADERS.get(self.status))


def refusal_of(error: Exception) -> RequestError:
    """Returns what a client is told; a defect is printed with its traceback."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, InputError):
        return RequestError(one_line(error))
    if isinstance(error, HTTPException):
        return RequestError(error.detail, error.status_code)
    progress.print_line("".join(traceback.format_exception(error)))
    return RequestError("a defect of the server: its log has the traceback", 500)


class Fields:
    """The fields of a JSON object; one that is null counts as left out."""

    def __init__(self, body: bytes):
        try:
            value = parse_json(body)
        except JsonError as error:
            raise RequestError(f"the body is not JSON: {error}") from error
        if not isinstance(value, Mapping):
            raise RequestError("the body must be a JSON object")
        self._values: Mapping[str, Any] = value
        self._names: set[str] = set()  # of the fields that the request may have

    def get(self, name: str) -> Any:
        self._names.add(name)
        return self._values.get(name)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def check_names(self) -> None:
        """Refuses fields that were not asked for until now."""
        for name in self._values:
            if name not in self._names:
                short = shorten(name, 50)
                hint = did_you_mean(name, self._names)
                raise RequestError(f"there is no field {short!r}{hint}", field=short)

    def refuse(self, name: str, *, unless: Collection[object] = ()) -> None:
        """Refuses a field of OpenAI's that is not supported, unless its value changes nothing."""
        if name in self and self.get(name) not in unless:
            raise self.error(name, "is not supported")

    def error(self, name: str, problem: str) -> RequestError:
        value = shorten(json.dumps(self.get(name)), 60)
        return RequestError(f"{name} is {value}: it {problem}", field=name)

    def text(self, name: str) -> str | None:
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            raise self.error(name, "must be a text")
        return value

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if value is not None and not isinstance(value, bool):
            raise self.error(name, "must be true or false")
        return bool(value)

    def number(self, name: str, allowed: Range) -> Any:
        """Returns an int or float, an int for a range of whole numbers; None if it is left out."""
        value = self.get(name)
        if value is None:
            return None
        # Larger integers are not numbers of float64.
        if (isinstance(value, int) and abs(value) >> 64) or value not in allowed:
            raise self.error(name, f"must be {allowed}")
        return int(value) if allowed.whole else value

    def texts(self, name: str, most: int) -> list[str]:
        """Returns a text, or a list of 1 to `most` texts, as a list."""
        value = self.get(name)
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(x, str) for x in values):
            raise self.error(name, "must be a text or a list of texts")
        self.check_count(name, values, most)
        return values

    def check_count(self, name: str, values: list[Any], most: int) -> None:
        if not 1 <= len(values) <= most:
            raise RequestError(
                f"{name} has {len(values):,} entries: it must have 1 to {most:,}", field=name
            )
