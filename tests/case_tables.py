"""Checks that everything of a kind that a package exports stands in a table of cases."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from types import ModuleType
from typing import Any

from mtfrun.configuration.published import exported_names


def exported(package: ModuleType, is_of_kind: Callable[[Any], bool]) -> dict[str, Any]:
    """Returns what a package exports and is of a kind, by its name."""
    values = {name: getattr(package, name) for name in exported_names(package)}
    return {name: value for name, value in values.items() if is_of_kind(value)}


@contextlib.contextmanager
def recorded_calls(package: ModuleType, names: Iterable[str]) -> Iterator[set[str]]:
    """Returns a context in which a set collects which of these names are called.

    These are the calls by cases, of `package.name(...)`: functions as well as constructors. Calls
    inside the package, whose files import from each other, are not recorded.
    """
    originals = {name: getattr(package, name) for name in names}
    called: set[str] = set()

    def recorder(name: str) -> Callable[..., Any]:
        @functools.wraps(originals[name], updated=())
        def call(*args: Any, **kwargs: Any) -> Any:
            called.add(name)
            return originals[name](*args, **kwargs)

        return call

    try:
        for name in originals:
            setattr(package, name, recorder(name))
        yield called
    finally:
        for name, original in originals.items():
            setattr(package, name, original)


def require_a_case_of_each(
    names: Collection[str], with_a_case: Collection[str], exempt: Collection[str], where: str
) -> None:
    """Raises unless every name has a case or is exempt, and not both.

    Args:
      names: what the package exports.
      with_a_case: the names that the tables of cases call.
      exempt: the names that need no case; each must be one of `names`.
      where: the file to which a case is added, for the message.
    """
    without = set(names) - set(with_a_case) - set(exempt)
    assert not without, f"add cases of {sorted(without)} to {where}"
    unknown = set(exempt) - set(names)
    assert not unknown, f"{sorted(unknown)} are exempt but not exported: remove the exemptions"
    unneeded = set(exempt) & set(with_a_case)
    assert not unneeded, f"{sorted(unneeded)} have cases: remove the exemptions"
