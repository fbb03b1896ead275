"""Text of gin files, in the form of the files that are shipped."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from mtfrun.untrusted import escaped

_LINE = 100

# Where configurations find what they name; all other modules are in mtfrun itself.
_PARENTS = {
    "moe": "mtfrun.models",
    "resnet": "mtfrun.models",
    "transformer": "mtfrun.models",
    "initializers": "mtfrun.mtf",
}
_MODULE = re.compile(r"(?:^|[@/\s\[(,{:])(?:\w+/)*([a-z]\w*)\.[A-Za-z_]\w*")


class Reference(str):
    """A value that is written as it is: "@transformer.FeedForward", "%D_MODEL", "@mtf.relu"."""


@dataclasses.dataclass
class _Statement:
    """A macro, or a parameter of a class.

    Attributes:
      name: "D_MODEL", or "d_model".
      value: as gin writes it.
      comment: behind the value, or before it if the line would be too long.
    """

    name: str
    value: object
    comment: str = ""

    def __post_init__(self) -> None:
        self.comment = escaped(self.comment)

    def lines(self, indent: str) -> list[str]:
        """Returns the lines of the statement."""
        text = f"{indent}{self.name} = {gin_value(self.value)}"
        comments: list[str] = []
        if self.comment and len(text) + len(self.comment) + 4 <= _LINE:
            text += f"  # {self.comment}"
        elif self.comment:
            comments = [f"{indent}# {self.comment}"]
        if len(text) <= _LINE or not isinstance(self.value, list | tuple):
            return [*comments, text]
        items = [f"{indent}    {gin_value(item)}," for item in self.value]
        return [*comments, f"{indent}{self.name} = [", *items, f"{indent}]"]


@dataclasses.dataclass
class GinFile:
    """A gin file: a comment, includes, imports, macros, and parameters by class.

        file = GinFile(["T5 1.1 of /models/t5."])
        file.include("defaults.gin", "models/t5.1.1.gin")
        file.macro("D_MODEL", 512)
        file.bind("transformer.RelativePositionBias", {"max_distance": 64})
        file.bind("decoder/transformer.Stack", {"layers": [Reference("@transformer.FeedForward")]})
        text = file.text()

    The file imports the modules that its statements name. A line break in a comment, for example in
    the name of a directory, is escaped, so that it cannot start a statement.

    Attributes:
      header: lines of the comment at the top, without "#".
    """

    header: Sequence[str]
    _includes: list[str] = dataclasses.field(default_factory=list)
    _macros: list[_Statement | None] = dataclasses.field(default_factory=list)
    _blocks: dict[str, dict[str, _Statement]] = dataclasses.field(default_factory=dict)

    def include(self, *names: str) -> None:
        """Includes files, such as "models/t5.1.1.gin", in this order."""
        self._includes += names

    def macro(self, name: str, value: object, comment: str = "") -> None:
        """Sets a macro; a later value replaces an earlier one in its place."""
        statement = _Statement(name, value, comment)
        for position, old in enumerate(self._macros):
            if old is not None and old.name == name:
                self._macros[position] = statement
                return
        self._macros.append(statement)

    def gap(self) -> None:
        """Leaves a line empty between macros."""
        self._macros.append(None)

    def bind(self, target: str, parameters: Mapping[str, object], *, comment: str = "") -> None:
        """Binds parameters of a class or function.

        Args:
          target: "transformer.Stack", or with a scope "encoder/transformer.Stack".
          parameters: values by name.
          comment: about the first of them.
        """
        block = self._blocks.setdefault(target, {})
        for name, value in parameters.items():
            block[name] = _Statement(name, value, comment)
            comment = ""

    def text(self) -> str:
        """Returns the text of the file."""
        parts = [[f"# {escaped(line)}".rstrip() for line in self.header]]
        parts.append([f'include "{name}"' for name in self._includes])
        macros: list[str] = []
        for statement in self._macros:
            macros += [""] if statement is None else statement.lines("")
        blocks = [
            [f"{target}:", *(line for s in block.values() for line in s.lines("    "))]
            for target, block in self._blocks.items()
        ]
        imports = ["from __gin__ import dynamic_registration"]
        imports += [f"from {parent} import {module}" for parent, module in self._modules()]
        parts += [imports, macros, *blocks]
        return "\n\n".join("\n".join(part) for part in parts if part) + "\n"

    def _modules(self) -> list[tuple[str, str]]:
        """Returns the modules that statements name, with their packages, in the order of names."""
        texts = list(self._blocks)
        statements = [s for s in self._macros if s is not None]
        statements += [s for block in self._blocks.values() for s in block.values()]
        texts += [text for s in statements for text in _references(s.value)]
        modules = {match[1] for text in texts for match in [_MODULE.search(text)] if match}
        return sorted((_PARENTS.get(module, "mtfrun"), module) for module in modules)


def gin_value(value: object) -> str:
    """Returns a value as gin writes it.

    Examples:
      >>> gin_value(["a", 1, Reference("@mtf.relu")])
      '["a", 1, @mtf.relu]'
      >>> gin_value({"inputs": (1e-6, None)})
      '{"inputs": (1e-06, None)}'
    """
    if isinstance(value, Reference):
        return str(value)
    if isinstance(value, str):
        plain = repr(value)
        # Double quotes, as in the files that are shipped.
        return f'"{plain[1:-1]}"' if plain[0] == "'" and '"' not in value else plain
    if isinstance(value, dict):
        items = [f"{gin_value(name)}: {gin_value(item)}" for name, item in value.items()]
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(gin_value, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(gin_value, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def _references(value: object) -> list[str]:
    """Returns the references in a value."""
    if isinstance(value, Reference):
        return [str(value)]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _references(item)]
    if isinstance(value, list | tuple):
        return [text for item in value for text in _references(item)]
    return []
