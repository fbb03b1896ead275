from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mtfrun.cli.command import Command, add_json
from mtfrun.configuration.files import (
    GinHeader,
    find_gin_file,
    require_gin_file,
    shipped_gin_files,
    shipped_headers,
)
from mtfrun.display.formats import wrap_lines
from mtfrun.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from mtfrun.configuration.statements import Binding

_DESCRIPTION = """\
Explains a macro, a class, a function, a parameter, or a gin file of the package.

  mtfrun config explain TRAIN_STEPS
  mtfrun config explain optim.Adafactor
  mtfrun config explain TrainOptions.clip_norm
  mtfrun config explain max_to_keep
  mtfrun config explain models/moe_1d_tiny.gin

It prints the whole docstring, the defaults, and where the files of the package set it; of a gin
file its header: its purpose, cost and result, and the macros that are commonly overridden."""


def _check(flags: argparse.Namespace) -> None:
    if len(flags.words) != 1:
        raise InputError(
            f"config explain needs one name, not {len(flags.words)}: "
            "mtfrun config explain TRAIN_STEPS"
        )
    (word,) = flags.words
    if word not in shipped_gin_files() and find_gin_file(word) is not None:
        raise InputError(f"{word} is a gin file: write mtfrun config show --gin_file={word}")
    if word.endswith(".gin"):
        require_gin_file(word)


class Explanation(NamedTuple):
    """`kind` is "macro", "class", "function", "parameter" or "gin file".

    `text` is a docstring, the meaning of a macro, or the header of a gin file; `set_by` has lines,
    "place: value"; `used_by` the parameters that are bound to a macro.
    """

    name: str
    kind: str
    text: str
    parameters: Mapping[str, tuple[str | None, str]] = {}
    default: str | None = None
    set_by: Sequence[str] = ()
    used_by: Sequence[str] = ()


def run(flags: argparse.Namespace, _: Sequence[str]) -> int:
    (name,) = flags.words
    explanations = explain(name.lstrip("@%").removesuffix("()"))
    if flags.json:
        print(json.dumps([explanation._asdict() for explanation in explanations], indent=1))
    else:
        print("\n\n".join("\n".join(_lines(explanation)) for explanation in explanations))
    return 0


def explain(name: str) -> list[Explanation]:
    """Returns several explanations if classes have parameters of the same name."""
    from mtfrun import experiment  # noqa: F401 - whose classes are explained
    from mtfrun.configuration.published import is_configurable, load_published, signature_of
    from mtfrun.configuration.statements import macros_of

    header = shipped_headers().get(name)
    if header is not None:
        return [_gin_file(header)]
    bindings = _shipped_bindings()
    targets = {full: target for full, target in load_published().items() if is_configurable(target)}
    macros = set(macros_of(bindings))
    if name in macros:
        return [_macro(name, bindings)]
    named = [full for full in targets if _is_called(full, name)]
    if named:
        # Two packages export some classes; one name of each is enough.
        of_definition = {id(targets[full]): full for full in named}
        return [_target(full, targets[full], bindings) for full in of_definition.values()]
    owner, _, parameter = name.rpartition(".")
    having = (full for full in targets if parameter in signature_of(targets[full]))
    owners = {id(targets[full]): full for full in having}
    chosen = [full for full in owners.values() if not owner or _is_called(full, owner)]
    if chosen:
        return [_parameter(full, targets[full], parameter, bindings) for full in chosen]
    raise InputError(f"nothing is called {name}{_nearest(name, macros, targets)}")


def _nearest(name: str, macros: set[str], targets: Mapping[str, Any]) -> str:
    from mtfrun.configuration.published import signature_of

    owner, _, parameter = name.rpartition(".")
    owners = [full for full in targets if owner and _is_called(full, owner)]
    if owners:  # a class that exists, without this parameter
        names = list(signature_of(targets[owners[0]]))
        return did_you_mean(parameter, names) or f"; {owners[0]} has {', '.join(names) or 'none'}"
    shorts = {full.partition(".")[2] for full in targets}
    parameters = {name for target in targets.values() for name in signature_of(target)}
    candidates = {*macros, *targets} if owner else {*macros, *shorts, *parameters}
    return did_you_mean(name, sorted(candidates)) or "; mtfrun config list lists the gin files"


def _is_called(full: str, name: str) -> bool:
    return name in (full, full.partition(".")[2])


def _shipped_bindings() -> list[Binding]:
    from mtfrun.configuration.statements import Statements

    statements = Statements()
    for name in shipped_gin_files():
        statements.add_shipped_file(name)
    return statements.bindings


def _macro(name: str, bindings: Sequence[Binding]) -> Explanation:
    from mtfrun.configuration.gin_values import MACRO

    meanings = dict.fromkeys(
        _meaning(name, names.split(", "), meaning)
        for header in shipped_headers().values()
        for names, meaning in header.overridden.items()
        if name in names.split(", ")
    )
    set_by = [
        f"{b.place}: {b.value_text}" for b in bindings if b.selector == MACRO and b.scope == name
    ]
    used_by = {
        b.name: None for b in bindings for reference in b.references() if reference.macro == name
    }
    return Explanation(name, "macro", "\n".join(meanings), set_by=set_by, used_by=list(used_by))


def _meaning(name: str, names: Sequence[str], text: str) -> str:
    parts = text.split(", ")
    return parts[names.index(name)] if len(parts) == len(names) else text


def _gin_file(header: GinHeader) -> Explanation:
    fields = {"Paper": header.paper, "Cost": header.cost, "Result": header.result}
    lines = [
        header.description,
        *(f"{title}: {text}" for title, text in fields.items() if text),
        *["Commonly overridden:"] * bool(header.overridden),
        *(f"{names}: {meaning}" for names, meaning in header.overridden.items()),
        *(["Command:", header.command] if header.command else []),
    ]
    return Explanation(header.name, "gin file", "\n".join(lines))


def _target(name: str, target: Any, bindings: Sequence[Binding]) -> Explanation:
    from mtfrun.configuration.published import default_text, signature_of
    from mtfrun.configuration.settings_in_use import parameter_docs

    docs = parameter_docs(target)
    parameters = {
        parameter: (default_text(target, signature), docs.get(parameter, ""))
        for parameter, signature in signature_of(target).items()
    }
    kind = "class" if inspect.isclass(target) else "function"
    set_by = [
        f"{b.place}: {b.name} = {b.value_text}" for b in bindings if _is_called(name, b.selector)
    ]
    return Explanation(name, kind, inspect.getdoc(target) or "", parameters, set_by=set_by)


def _parameter(name: str, target: Any, parameter: str, bindings: Sequence[Binding]) -> Explanation:
    from mtfrun.configuration.published import default_text, signature_of
    from mtfrun.configuration.settings_in_use import parameter_docs, summary

    signature = signature_of(target)[parameter]
    set_by = [
        f"{b.place}: {b.name} = {b.value_text}"
        for b in bindings
        if b.parameter == parameter and _is_called(name, b.selector)
    ]
    return Explanation(
        f"{name}.{parameter}",
        "parameter",
        parameter_docs(target).get(parameter, "") or f"Of: {summary(target)}",
        default=default_text(target, signature) or "none, it must be given",
        set_by=set_by,
    )


def _lines(explanation: Explanation) -> list[str]:
    lines = [f"{explanation.name} ({explanation.kind})"]
    if explanation.kind in ("class", "function"):
        lines += _narrow_docstring(explanation.text, indent="    ")
    else:
        for line in explanation.text.splitlines():
            lines += wrap_lines(line, first="    ")
    if explanation.default is not None:
        lines += wrap_lines(explanation.default, first="  default: ", other="    ")
    if explanation.parameters:
        lines.append("  defaults:")
        for name, (default, meaning) in explanation.parameters.items():
            text = "none, it must be given" if default is None else default
            lines += wrap_lines(f"{name} = {text}", first="    ", other="      ")
            # The constructor's docstring is not part of the class's docstring.
            if meaning and f"{name}:" not in explanation.text:
                lines += wrap_lines(meaning, first="        ")
    for title, items in (("used by", explanation.used_by), ("set by", explanation.set_by)):
        if items:
            lines.append(f"  {title}:")
            for item in items:
                lines += wrap_lines(item, first="    ", other="      ")
    return lines


# Where the description of an argument or attribute begins.
_ENTRY = re.compile(r" +\**\w+(, \**\w+)*: ")
# The shortest lines of docstrings that were ended because the next word did not fit.
_FULL_LINE = 88


def _narrow_docstring(docstring: str, indent: str) -> list[str]:
    lines: list[str] = []
    last = ""
    for line in docstring.splitlines():
        words = line.split()
        is_full = bool(words) and len(last) + 1 + len(words[0]) > _FULL_LINE
        if is_full and not _ENTRY.match(line):
            lines[-1] += f" {line.strip()}"  # a part of the same paragraph
        else:
            lines.append(line)
        last = line
    narrow = []
    for line in lines:
        first = indent + line[: len(line) - len(line.lstrip())]
        narrow += wrap_lines(line.strip(), first=first)
    return narrow


COMMANDS = [
    Command("config explain", _DESCRIPTION, run, add_json, _check, subject="nothing", words="NAME")
]
