"""The structure of mtfrun as its source text shows it; `bin/structure` prints counts of it."""

from __future__ import annotations

import ast
import functools
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

from tests.reach import ROOT, module_name, names_in_strings, parse, runtime_nodes

# Suffixes of classes whose instances differ by what a contract says, not by their class.
KINDS = re.compile(
    r"(Data|Model|DecoderOnly|Encoder\w+|Classifier|Inference|Decoding|Classification|Evaluator)$"
)


def package_of(module: str) -> str:
    """Returns the top-level package of a module: "models" of "mtfrun.models.moe.router"."""
    return module.split(".")[1] if "." in module else ""


SOURCES = sorted((ROOT / "mtfrun").rglob("*.py"))
MODULES = {module_name(path): path for path in SOURCES}
TREES = {path: parse(path) for path in SOURCES}


@functools.cache
def imported_names(path: pathlib.Path) -> set[str]:
    """Returns the dotted names that a file imports; `from a import b` as "a.b"."""
    names = set()
    for node in runtime_nodes(TREES[path]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names | names_in_strings(TREES[path])


@functools.cache
def imported_modules(path: pathlib.Path) -> set[str]:
    """Returns the modules of mtfrun that a file imports: each name's longest prefix that is one."""
    modules = set()
    for imported in imported_names(path):
        name = imported
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if name:
            modules.add(name)
    return modules - {module_name(path)}


def imports_between_sub_packages() -> dict[str, dict[str, set[str]]]:
    """Returns the sub-packages of each package with the siblings that their files import.

    Only siblings count: a package that has sub-packages may be imported by them, and imports them.
    """
    imports: dict[str, dict[str, set[str]]] = {}
    for path in MODULES.values():
        for imported in imported_modules(path):
            parents = path.parent.relative_to(ROOT).parts
            targets = MODULES[imported].parent.relative_to(ROOT).parts
            depth = next(
                (i for i, (a, b) in enumerate(zip(parents, targets, strict=False)) if a != b), None
            )
            if depth is None or depth < 2:  # a part of the other, or packages of the first level
                continue
            siblings = imports.setdefault(".".join(parents[:depth]), {})
            siblings.setdefault(parents[depth], set()).add(targets[depth])
    return imports


def parameter_counts(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """Yields every function and dataclass with the number of its parameters, without self."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = f"{prefix}{node.name}"
            if isinstance(node, ast.FunctionDef):
                arguments = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
                yield name, sum(argument.arg not in ("self", "cls") for argument in arguments)
            elif any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
                fields = [ast.unparse(f) for f in node.body if isinstance(f, ast.AnnAssign)]
                yield name, sum("ClassVar" not in f and "init=False" not in f for f in fields)
            yield from parameter_counts(node, f"{name}.")
        else:
            yield from parameter_counts(node, prefix)


def questions_of_kind(tree: ast.Module) -> list[ast.Call]:
    """Returns the calls that ask of which kind data, a model or an inference is."""
    calls = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        words = [re.findall(r"\w+", ast.unparse(argument)) for argument in node.args]
        asks_for_class = node.func.id in ("isinstance", "issubclass")
        asks_for_member = node.func.id in ("getattr", "hasattr")
        if (asks_for_class and any(KINDS.search(word) for word in words[1])) or (
            asks_for_member and re.search(r"^_?(model|data|inference)$", words[0][-1])
        ):
            calls.append(node)
    return calls


# An entry of `Args` is a noun phrase: "clock: the loop's clock", not "clock: of the loop".
_NO_NOUN = re.compile(
    r"(?:about|above|after|as|at|before|below|between|by|for|from|if|in|like|of|on|over|per|since|"
    r"that|to|under|until|what|when|where|which|with|within|without)\b"
)
_ENTRY = re.compile(r"  (\*{0,2}\w+(?:, \*{0,2}\w+)*): (.*)")


def entries_without_a_noun(tree: ast.Module) -> Iterator[str]:
    """Yields the entries of `Args` and `Attributes` that begin with a preposition or a clause."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            is_section = False
            for line in (ast.get_docstring(node) or "").splitlines():
                if not line.startswith(" "):
                    is_section = line in ("Args:", "Attributes:") or (is_section and not line)
                elif is_section and (entry := _ENTRY.fullmatch(line)) and _NO_NOUN.match(entry[2]):
                    yield line.strip()


def counts() -> dict[str, int]:
    """Returns the counts about all files, by what they count."""
    texts = [path.read_text(encoding="utf-8") for path in SOURCES]
    questions = [call for tree in TREES.values() for call in questions_of_kind(tree)]
    functions = [ast.unparse(call.func) for call in questions]
    return {
        "files": len(SOURCES),
        "files of at most 40 lines": sum(text.count("\n") <= 40 for text in texts),
        "lines": sum(text.count("\n") for text in texts),
        "isinstance on kinds": sum(name in ("isinstance", "issubclass") for name in functions),
        "getattr on models and data": sum(name in ("getattr", "hasattr") for name in functions),
        "parameters at most": max(
            number for tree in TREES.values() for _, number in parameter_counts(tree)
        ),
    }


def _count_type_errors() -> int:
    """Returns the number of errors that mypy finds, as strict as setup.cfg says."""
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "mtfrun"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if process.returncode not in (0, 1):
        raise RuntimeError(process.stdout + process.stderr)
    return len(re.findall(r": error: ", process.stdout))


def main() -> None:
    """Prints a line for every count."""
    for what, count in {**counts(), "type errors": _count_type_errors()}.items():
        print(f"{count:>8,}  {what}")


if __name__ == "__main__":
    main()
