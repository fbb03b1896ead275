from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from mtfrun.configuration.gin_values import override, references_in, value_text
from mtfrun.configuration.published import import_statement, module_names
from mtfrun.errors.untrusted import escape

_LINE = 100


@dataclasses.dataclass
class _Statement:
    """A macro, or a parameter of a class; a long comment stands before it."""

    name: str
    value: object
    comment: str = ""

    def __post_init__(self) -> None:
        self.comment = escape(self.comment)

    def lines(self, indent: str) -> list[str]:
        text = indent + override(self.name, self.value)
        comments: list[str] = []
        if self.comment and len(text) + len(self.comment) + 4 <= _LINE:
            text += f"  # {self.comment}"
        elif self.comment:
            comments = [f"{indent}# {self.comment}"]
        if len(text) <= _LINE or not isinstance(self.value, list | tuple):
            return [*comments, text]
        items = [f"{indent}    {value_text(item)}," for item in self.value]
        return [*comments, f"{indent}{self.name} = [", *items, f"{indent}]"]


@dataclasses.dataclass
class GinFile:
    """A gin file: a comment, includes, imports, macros, and parameters by class.

        file = GinFile(["T5 1.1 of /models/t5."])
        file.include("defaults.gin", "models/t5.1.1.gin")
        file.macro("D_MODEL", 512)
        file.bind("decoder/transformer.Stack", {"layers": [reference("@transformer.FeedForward")]})
        text = file.text()

    The file imports the modules that its statements name. Line breaks in comments, for example in
    the name of a directory, are escape, so that they cannot start a statement. `blocks` has
    statements by target, such as "encoder/transformer.Stack", and parameter.
    """

    header: Sequence[str]
    includes: list[str] = dataclasses.field(default_factory=list)
    macros: list[_Statement | None] = dataclasses.field(default_factory=list)
    blocks: dict[str, dict[str, _Statement]] = dataclasses.field(default_factory=dict)

    def include(self, *names: str) -> None:
        self.includes += names

    def macro(self, name: str, value: object, comment: str = "") -> None:
        """A later value replaces an earlier one in its place."""
        statement = _Statement(name, value, comment)
        for position, old in enumerate(self.macros):
            if old is not None and old.name == name:
                self.macros[position] = statement
                return
        self.macros.append(statement)

    def gap(self) -> None:
        self.macros.append(None)

    def bind(self, target: str, parameters: Mapping[str, object], *, comment: str = "") -> None:
        """Binds parameters of a class or function; the comment is about the first of them."""
        block = self.blocks.setdefault(target, {})
        for name, value in parameters.items():
            block[name] = _Statement(name, value, comment)
            comment = ""

    def text(self) -> str:
        macros: list[str] = []
        for statement in self.macros:
            if statement is not None:
                macros += statement.lines("")
            elif macros and macros[-1]:
                macros.append("")
        blocks = [
            [f"{target}:", *(line for s in block.values() for line in s.lines("    "))]
            for target, block in self.blocks.items()
        ]
        imports = ["from __gin__ import dynamic_registration"]
        imports += self._imports()
        parts = [
            [f"# {escape(line)}".rstrip() for line in self.header],
            [f'include "{name}"' for name in self.includes],
            imports,
            macros[:-1] if macros and not macros[-1] else macros,
            *blocks,
        ]
        return "\n\n".join("\n".join(part) for part in parts if part) + "\n"

    def _imports(self) -> list[str]:
        statements = [s for s in self.macros if s is not None]
        statements += [s for block in self.blocks.values() for s in block.values()]
        references = [r for s in statements for r in references_in(s.value) if not r.macro]
        selectors = [target.rpartition("/")[2] for target in self.blocks]
        selectors += [reference.selector for reference in references]
        names = {selector.split(".")[0] for selector in selectors}
        modules = module_names()
        return sorted(import_statement(name, modules.get(name, name)) for name in names)
