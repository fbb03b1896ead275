"""Strict JSON, which every reader understands in the same way."""

from __future__ import annotations

import json
import math
import re
from typing import Any, NoReturn

from mtfrun.errors import InputError

# An escaped surrogate; an unpaired one cannot be written in UTF-8.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class JsonError(InputError):
    """A text is not strict JSON; the message says why, without the name of the file."""


def parse_json(content: bytes) -> Any:
    """Returns the value of a JSON text in UTF-8.

    Rejects repeated names in an object, which readers resolve differently, NaN and Infinity, which
    are not JSON, numbers beyond float64, and texts that cannot be written in UTF-8.

    Raises:
      JsonError: the text is not such JSON.
    """
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as error:
        raise JsonError("a text has half of a surrogate pair") from error
    except UnicodeDecodeError as error:
        raise JsonError(f"byte {error.start} is no UTF-8") from error
    except RecursionError as error:
        raise JsonError("its values are too deep in each other") from error
    except JsonError:
        raise
    except ValueError as error:  # the syntax, or an integer with too many digits
        raise JsonError(str(error)) from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise JsonError(f"it has {name!r:.80} twice")
        values[name] = value
    return values


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _no_constant(text)


def _no_constant(name: str) -> NoReturn:
    raise JsonError(f"{name:.80} is no number")
