from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import tokenize
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from gin.config import ConfigurableReference

import gin
from gin import config_parser
from mtfrun.errors import ConfigError

MACRO = "gin.macro"
A_GIN_FILE = "--gin_file names a text such as runs/quickstart.gin"
"""The remedy where a file is not of gin."""
_VALUES = "write values as in Python: True, 1.5, 'text', [1, 2], @optim.Adam()"

# Values of a deeper nesting exceed what Python's functions for copying and printing can do.
_MAX_DEPTH = 64
# Strings that follow each other are one string; gin's parser is quadratic in their number.
_MOST_STRINGS = 1000
# TensorFlow, numpy and JSON readers have no larger integers.
_INTEGERS = range(-(2**63), 2**63)


@dataclasses.dataclass(frozen=True)
class Reference:
    """`@scope/selector`, `@scope/selector()` if called, or `%NAME`: selector MACRO, scope NAME."""

    scopes: tuple[str, ...]
    selector: str
    called: bool = True

    @property
    def macro(self) -> str:
        """The macro's name; "" for a class or function."""
        return self.scopes[-1] if self.selector == MACRO else ""

    def __str__(self) -> str:
        if self.macro:
            return f"%{self.macro}"
        return "@" + "/".join([*self.scopes, self.selector]) + "()" * self.called


def reference(text: str) -> Reference:
    if text.startswith("%"):
        return Reference((text[1:],), MACRO)
    *scopes, selector = text.removeprefix("@").removesuffix("()").split("/")
    return Reference(tuple(scopes), selector, text.endswith("()"))


def value_text(value: Any) -> str:
    """Returns a value as gin writes it.

    >>> value_text({"inputs": (1e-6, None), "layers": [reference("@mtf.relu")]})
    "{'inputs': (1e-06, None), 'layers': [@mtf.relu]}"
    """
    if isinstance(value, Reference):
        return str(value)
    if isinstance(value, dict):
        items = [f"{value_text(k)}: {value_text(v)}" for k, v in value.items()]
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(value_text, value)) + "]"
    if isinstance(value, tuple):
        return f"({', '.join(map(value_text, value))}{',' * (len(value) == 1)})"
    return repr(value)


def override(name: str, value: Any) -> str:
    """Returns the statement that gives a macro or parameter a value.

    >>> override("mtf.Mesh.shape", "data:2")
    "mtf.Mesh.shape = 'data:2'"
    """
    return f"{name} = {value_text(value)}"


def parts_of(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list | tuple) else ()


def map_parts(function: Callable[[Any], Any], value: Any) -> Any:
    """Applies a function to the parts of a list, tuple or dictionary; else returns the value."""
    if isinstance(value, dict):
        return {key: function(item) for key, item in value.items()}
    return type(value)(map(function, value)) if isinstance(value, list | tuple) else value


def num_parts(value: Any) -> int:
    return 1 + sum(map(num_parts, parts_of(value)))


def references_in(value: Any) -> Iterator[Reference]:
    if isinstance(value, Reference):
        yield value
    for part in parts_of(value):
        yield from references_in(part)


def replace_macros(value: Any, macros: Mapping[str, Any]) -> Any:
    if isinstance(value, Reference):
        return replace_macros(macros[value.macro], macros) if value.macro in macros else value
    return map_parts(lambda part: replace_macros(part, macros), value)


def with_reference_texts(value: Any) -> Any:
    """Returns a value with texts such as "@transformer.Stack" for references."""
    return str(value) if isinstance(value, Reference) else map_parts(with_reference_texts, value)


def parse_gin(text: Any, source: str) -> tuple[list[Any], list[tuple[int, Reference]]]:
    """Returns the statements of an open file, or of a flag's text, as gin's parser returns them.

    All references are returned with their lines as well. Raises ConfigError for a syntax error, a
    dictionary that has a key twice, or a value that is too large.
    """
    is_flag, place = isinstance(text, str), shorten_flag(source)
    try:
        delegate = _Delegate(text)
        return list(delegate.parser), delegate.references
    except RecursionError:
        raise _too_deep(place) from None
    except UnicodeEncodeError:  # by Python 3.12 and newer
        raise ConfigError(f"{place}: it has bytes that are not UTF-8") from None
    except (SyntaxError, tokenize.TokenError) as error:
        reason = str(error.msg if isinstance(error, SyntaxError) else error)
        if "too many nested" in reason:  # Python 3.12 and newer count brackets
            raise _too_deep(place) from None
        if "integer string conversion" in reason:
            raise ConfigError(f"{place}: an integer does not fit 64 bits") from None
        if is_flag:
            quotes = "within quotes of the shell: --gin.NAME=\"'text'\""
            raise ConfigError(f"{place}: not a gin value: {_VALUES}; {quotes}") from None
        if isinstance(error, tokenize.TokenError):
            message, (line, _) = error.args
            raise _syntax_error(source, line, f"{message} (is a bracket left open?)") from None
        # gin appends the error of Python's parser in further lines; where a token is not a Python
        # constant, its whole message is that error.
        message, remedy = " ".join(reason.split("\n", maxsplit=1)[0].split()).rstrip("."), ""
        if "Failed to parse token" in reason:
            message, remedy = "not a gin value", f"; {_VALUES}"
        what = f"{message}: {shorten_flag((error.text or '').strip())}{remedy}"
        raise _syntax_error(source, error.lineno or 1, what) from None


def _syntax_error(source: str, line: int, text: str) -> ConfigError:
    if source.endswith((".gin", "configuration")):  # a recorded one has no file
        return ConfigError(f"{source}:{line}: {text}")
    return ConfigError(f"{source} is not a gin file: line {line}: {text}; {A_GIN_FILE}")


def check_size(value: Any, place: str, depth: int = 0) -> None:
    """Raises ConfigError where a value is nested too deeply or holds too large an integer."""
    if depth == _MAX_DEPTH:
        raise _too_deep(place)
    if isinstance(value, int) and value not in _INTEGERS:
        # Python refuses to write more than 4300 digits in decimals, for their time.
        digits = str(value) if value.bit_length() < 10_000 else hex(value)
        raise ConfigError(f"{place}: an integer does not fit 64 bits: {shorten_flag(digits)}")
    for part in parts_of(value):
        check_size(part, place, depth + 1)


def shorten_flag(flag: str) -> str:
    return flag if len(flag) <= 200 else f"{flag[:200]}..."


class _Parser(config_parser.ConfigParser):  # type: ignore[misc]
    """gin's parser, which refuses long rows of strings."""

    _strings = 0

    def __init__(self, *arguments: Any) -> None:
        self._keys: list[set[Any]] = []
        super().__init__(*arguments)

    def _advance_one_token(self) -> None:
        super()._advance_one_token()
        is_string = self._current_token.type == tokenize.STRING
        self._strings = self._strings + 1 if is_string else 0
        if self._strings > _MOST_STRINGS:
            self._raise_syntax_error(f"More than {_MOST_STRINGS} strings in a row")

    def _maybe_parse_container(self) -> tuple[bool, Any]:
        self._keys.append(set())
        result: tuple[bool, Any] = super()._maybe_parse_container()
        self._keys.pop()
        return result

    def _parse_dict_item(self) -> tuple[Any, Any]:
        key, value = super()._parse_dict_item()
        try:
            hash(key)
        except TypeError:
            self._raise_syntax_error(f"{key!r} cannot be a key")
        if key in self._keys[-1]:
            self._raise_syntax_error(f"The key {key!r} is there twice")
        self._keys[-1].add(key)
        return key, value


class _Delegate(config_parser.ParserDelegate):  # type: ignore[misc]
    """Makes References, with their lines, without looking anything up."""

    def __init__(self, text: Any) -> None:
        self.references: list[tuple[int, Reference]] = []
        self.parser = _Parser(text, self)

    def configurable_reference(
        self,
        scoped_configurable_name: str,
        evaluate: bool,  # noqa: FBT001 - gin's signature
    ) -> Reference:
        *scopes, selector = scoped_configurable_name.split("/")
        reference = Reference(tuple(scopes), selector, evaluate)
        # The token after a reference is on its line, or on a later one of the same statement.
        line, _ = self.parser.current_token.start
        self.references.append((line, reference))
        return reference

    def macro(self, macro_name: str) -> Reference:
        return Reference((macro_name,), MACRO)


def _too_deep(place: str) -> ConfigError:
    return ConfigError(f"{place}: a value is nested more than {_MAX_DEPTH} deep")


class _BoundFunction(ConfigurableReference):  # type: ignore[misc]
    """`@function` in a value of the configuration.

    The function takes its arguments from the configuration when gin passes the value to a class.
    gin's references take them at every call, perhaps after another run was loaded.
    """

    def __init__(self, reference: ConfigurableReference) -> None:
        self.__dict__.update(vars(reference))

    def __eq__(self, other: object) -> bool:
        """Before gin writes a reference, it compares it."""
        return isinstance(other, ConfigurableReference) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __deepcopy__(self, memo: object) -> Callable[..., Any]:
        """To evaluate a reference, gin copies it."""
        scope = gin.config_scope(self.scopes) if self.scopes else contextlib.nullcontext()
        with scope:
            arguments = gin.get_bindings(self.configurable.selector)
        return _bound(self.configurable.wrapped, arguments)


def bind_functions(value: Any) -> Any:
    if isinstance(value, ConfigurableReference):
        is_function = not value.evaluate and not inspect.isclass(value.configurable.wrapped)
        return _BoundFunction(value) if is_function else value
    return map_parts(bind_functions, value)


def _bound(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Callable[..., Any]:
    """A caller's arguments replace the bound ones."""
    if not arguments:
        return function
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        positional = signature.bind_partial(*args).arguments
        bound = {name: value for name, value in arguments.items() if name not in positional}
        return function(*args, **{**bound, **kwargs})

    return call
