"""Passwords, tokens and signatures in URLs, which are masked wherever a URL is written or shown."""

from __future__ import annotations

import json
import re
import urllib.parse
from typing import Any

_MASK = "***"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*$")
# A URL ends at the quote before it, or at a space; punctuation behind it belongs to the sentence.
_UNQUOTED, _PUNCTUATION = re.compile(r"""[^\s"]*"""), ")]},.;:!'`>"
# Of a longer URL all is masked: the time stays proportional to the length of a text.
_LONGEST_SCHEME, _LONGEST = 40, 2048
_QUOTED = {
    quote: re.compile(rf"(?:\\.|[^\\\n{quote}]){{0,{_LONGEST}}}+(?={quote})") for quote in "\"'`"
}
# A host, its port, or a user with "@"; else the text before "/" begins a password.
_PORT = re.compile(r"@|^[^:]*$|:\d*$|\]$")
# Characters that end a URL in a text, and others for them.
_PRIVATE = {ord(x): 0xE000 + number for number, x in enumerate(' \t\r\n\v\f\u00a0"')}
_PUBLIC = {private: x for x, private in _PRIVATE.items()}
# A shorter part of a URL occurs in many words.
_SHORTEST = 3
_VALUE = re.compile(r"([?&#][\w.~%+\[\]$-]*=)[^&#]*")
_WEB_VALUE = re.compile(r"([?&#][^=&#]*=)[^&#]*")
_WITHOUT_NAME = re.compile(r"([?&#])[^=&#]+(?=[&#]|$)")
# URLs in a chain of fsspec's, and in lists without spaces.
_NEXT = re.compile(r"(?:::|[,;|])(?=[A-Za-z][A-Za-z0-9+.-]{0,40}:/)")
# Elsewhere "?" is a character of a pattern of file names.
_WEB = ("http", "https", "ftp", "ftps", "ws", "wss")


def mask_urls(text: str) -> str:
    """Replaces passwords, and all values of queries, in the URLs of a text.

    >>> mask_urls("cannot read https://me:secret@host/a?sig=4%2Bx&se=2030: it is gone")
    'cannot read https://me:***@host/a?sig=***&se=***: it is gone'
    """
    masked, position = list[str](), 0
    while (colon := text.find(":/", position)) >= 0:  # paths are written with a single slash
        start = colon + 1
        while text.startswith("/", start):
            start += 1
        scheme = _SCHEME.search(text[max(position, colon - _LONGEST_SCHEME) : colon])
        masked.append(text[position:start])
        position = start
        if scheme is None:
            continue
        before = colon - len(scheme[0]) - 1
        url = _read_url(text, start, text[before] if before >= 0 else "")
        position = start + len(url)
        if len(url) > _LONGEST:
            masked.append(_MASK)
            continue
        is_web = scheme[0].lower() in _WEB
        authority, path = _mask_user(url, is_web=is_web)
        masked.append(authority)
        other = path.find(":/")
        if other >= 0 and not re.search("[?#]", path[:other]):
            position -= len(path)  # it has another URL
            continue
        masked.append(_mask_query(path, is_web=is_web))
    return "".join([*masked, text[position:]])


def mask_url(url: str) -> str:
    """Masks a URL that is all of a text, with spaces and quotes."""
    return mask_urls(url.translate(_PRIVATE)).translate(_PUBLIC)


def mask_parts(text: str, url: str) -> str:
    """Masks the secrets of a URL in a text that may have only parts of it."""
    whole, masked = (re.split("[/:@?&=#]", urllib.parse.unquote(x)) for x in (url, mask_url(url)))
    for part in sorted({*whole} - {*masked}, key=len, reverse=True):
        if len(part) >= _SHORTEST:
            text = text.replace(part, _MASK).replace(urllib.parse.quote(part, safe=""), _MASK)
    return mask_urls(text)


def mask_json(value: Any) -> Any:
    """Returns a value as JSON returns it, with masked URLs; TypeError or ValueError without one."""
    return _mask_texts(json.loads(json.dumps(value, allow_nan=False)))


def _mask_texts(value: Any) -> Any:
    if isinstance(value, str):
        return mask_urls(value)
    if isinstance(value, dict):
        return {mask_urls(name): _mask_texts(item) for name, item in value.items()}
    return [_mask_texts(item) for item in value] if isinstance(value, list) else value


def _read_url(text: str, start: int, before: str) -> str:
    """Returns a URL without its scheme; `before` is the character before that."""
    if before in _QUOTED and (match := _QUOTED[before].match(text, start)):
        return _NEXT.split(match[0], maxsplit=1)[0]
    match = _UNQUOTED.match(text, start)
    assert match is not None  # it may be empty
    return _NEXT.split(match[0], maxsplit=1)[0].rstrip(_PUNCTUATION)


def _mask_user(text: str, *, is_web: bool) -> tuple[str, str]:
    """Returns the masked user and host of a URL, and what follows them."""
    authority = re.split("[/?#]", text, maxsplit=1)[0]
    if "@" in text and not _PORT.search(authority):
        authority = text[: text.rindex("@") + 1]  # a password with a slash
    rest = text[len(authority) :]
    user, at, host = authority.rpartition("@")
    name, colon, password = user.partition(":")
    if password:
        user = f"{name}:{_MASK}"
    elif is_web and name and not colon:
        user = _MASK  # a token
    return f"{user}{at}{host}", rest


def _mask_query(rest: str, *, is_web: bool) -> str:
    path, query = re.fullmatch(r"([^?#]*)(.*)", rest, re.DOTALL).groups()  # type: ignore[union-attr]
    query = (_WEB_VALUE if is_web else _VALUE).sub(rf"\1{_MASK}", query)
    if is_web and query.startswith("?"):
        query = _WITHOUT_NAME.sub(rf"\1{_MASK}", query)
    return path + query
