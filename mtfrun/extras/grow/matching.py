"""Which variable of a smaller model a variable of a larger one comes from."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from mtfrun.errors import InputError, list_some

# Blocks of a stack, and of a stage of a ResNet.
_BLOCK = re.compile(r"(?P<stack>.*?(?:^|/)(?:blocks|stages/\d+)/)(?P<number>\d+)/(?P<name>.*)")
_SUBLAYER = re.compile(r"(.*?(?:^|/)blocks/)(\d+)/([^/]+)/(.*)")

# Variables of a mixture, and those that they come from in a mixture of one level or in a
# feed-forward layer: the first that exists.
_OF_MIXTURES = (
    (r"layer/(?:outer|inner)_router/(.*)", [r"layer/router/\1"]),
    (r"layer/experts/wi/factors/0/(.*)", [r"layer/wi/\1", r"layer/wi_0/\1"]),
    (r"layer/experts/wi/factors/(\d+)/(.*)", [r"layer/wi_\1/\2"]),
    (r"layer/experts/wo/(.*)", [r"layer/wo/\1"]),
)
_ROUTER = re.compile(r".*/layer/(?:outer_|inner_)?router/.*")


class Origin(NamedTuple):
    """Where a variable comes from.

    Attributes:
      source: the path in the old model; None for a new variable.
      twin: the same variable in the last block that is not new.
    """

    source: str | None = None
    twin: str | None = None


def match_paths(old: Iterable[str], new: Iterable[str]) -> dict[str, Origin]:
    """Returns the origin of every path of the new model.

    Blocks after the last old one are new. A mixture may take the place of a feed-forward layer or
    of a mixture of fewer levels.

    Raises:
      InputError: another variable has no origin, or an old one no place.
    """
    old, new = list(old), list(new)
    names = _sublayers(old), _sublayers(new)
    blocks = {match.group("stack", "number") for x in old if (match := _BLOCK.fullmatch(x))}
    origins: dict[str, Origin] = {}
    surplus = []
    for path in new:
        source = next((x for x in _candidates(path, *names) if x in old), None)
        twin = None if source is not None else _twin(path, blocks, origins)
        origins[path] = Origin(source, twin)
        if source is None and twin is None and not _ROUTER.fullmatch(path):
            surplus.append(path)
    used = {origin.source for origin in origins.values()}
    missing = [path for path in old if path not in used]
    if missing or surplus:
        parts = [f"has no place for {list_some(missing, 3)}"] if missing else []
        parts += [f"has {list_some(surplus, 3)} besides"] if surplus else []
        raise InputError(
            f"the new model differs by more than sizes: it {' and '.join(parts)}; layers keep "
            "their kind, but for mixtures of experts in the place of feed-forward layers"
        )
    return origins


def _sublayers(paths: Iterable[str]) -> Mapping[tuple[str, str], list[str]]:
    """Returns the names of the sublayers of every block, in their order."""
    names: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        match = _SUBLAYER.fullmatch(path)
        if match is not None and match[3] not in names.setdefault((match[1], match[2]), []):
            names[match[1], match[2]].append(match[3])
    return names


def _candidates(
    path: str, old: Mapping[tuple[str, str], list[str]], new: Mapping[tuple[str, str], list[str]]
) -> Iterator[str]:
    match = _SUBLAYER.fullmatch(path)
    if match is None:
        yield path
        return
    stack, number, name, inner = match.groups()
    of_old, of_new = old.get((stack, number), []), new[stack, number]
    if len(of_old) != len(of_new):
        return
    # By its place: a class that a list has once more or less may have another number.
    sublayer = f"{stack}{number}/{of_old[of_new.index(name)]}"
    yield f"{sublayer}/{inner}"
    for pattern, sources in _OF_MIXTURES:
        of_mixture = re.fullmatch(pattern, inner)
        if of_mixture is not None:
            yield from (f"{sublayer}/{of_mixture.expand(source)}" for source in sources)


def _twin(
    path: str, old_blocks: Collection[tuple[str, ...]], origins: Mapping[str, Origin]
) -> str | None:
    match = _BLOCK.fullmatch(path)
    if match is None or match.group("stack", "number") in old_blocks:
        return None
    for number in reversed(range(int(match["number"]))):
        twin = f"{match['stack']}{number}/{match['name']}"
        if twin in origins and origins[twin].twin is None:
            return twin
    return None
