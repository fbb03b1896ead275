"""Which test files a change can reach, and which need no TensorFlow, by the imports in the source.

    python -m tests.reach    # the files of tests that the changes reach, the nearest first

`from mtfrun import optim` reaches the modules of the names that a file uses, `optim.Adam`, and not
all of the package.
"""

from __future__ import annotations

import ast
import functools
import gc
import itertools
import pathlib
import re
import subprocess
from collections import deque
from collections.abc import Iterator

from tests.deleted_extras import needs_deleted_extra

ROOT = pathlib.Path(__file__).parent.parent


def module_name(path: pathlib.Path) -> str:
    """Returns the dotted name under which a file is imported."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


PATHS = {
    module_name(path): path
    for folder in ("mtfrun", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


@functools.cache
def parse(path: pathlib.Path) -> ast.Module:
    """Returns the syntax tree of a file, in which relative imports have full names."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            node.module, node.level = f"{module_name(path.parent)}.{node.module}", 0
    return tree


def runtime_nodes(tree: ast.Module) -> Iterator[ast.AST]:
    """Yields all nodes but those under `if TYPE_CHECKING:`, which are never executed."""
    queue: list[ast.AST] = [tree]
    while queue:
        node = queue.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            queue.extend(node.orelse)
        else:
            queue.extend(ast.iter_child_nodes(node))


def names_in_strings(tree: ast.Module) -> set[str]:
    """Returns modules of mtfrun that are imported by `import_module("...")`, or by -m "...".

    `-m mtfrun` is the whole program, as a user starts it, and no import.
    """
    texts = {
        target.id: ast.unparse(node.value).strip("'")
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    named: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            named += node.args[:1]
        elif isinstance(node, ast.List | ast.Tuple):
            pairs = itertools.pairwise(node.elts)
            named += [b for a, b in pairs if isinstance(a, ast.Constant) and a.value == "-m"]
    words = {texts.get(name, name) for name in (ast.unparse(x).strip("'") for x in named)}
    return {word for word in words if word.startswith("mtfrun.")}


# These import TensorFlow, or start processes that do.
TENSORFLOW = {"tensorflow", "tensorflow_datasets", "tensorboard", "torch", "transformers"}

# Tests whose functions import it, or start processes that do; the imports do not show it.
HIDDEN_TENSORFLOW = {
    "tests.configuration.test_arguments",
    "tests.configuration.test_bound_functions",
    "tests.models.test_collectives",
    "tests.checkpoints.test_checkpoint_processes",
}

# Tests that only their options of bin/test run.
_APART = ("tests.bench", "tests.gpu", "tests.faults")

# Folders of files that are not modules, with the folders of the tests that read them.
READ_BY = {
    "gin": ("tests/configuration", "tests/cli", "tests/docs"),
    "gin/extras": ("tests/extras",),
    "docs": ("tests/docs",),
    "tests/oracle": ("tests/oracle",),
    "README.md": ("tests/docs",),
    "CONTRIBUTING.md": ("tests/docs",),
}


@functools.cache
def _names(module: str, *, in_functions: bool, with_types: bool = False) -> frozenset[str]:
    """Returns the dotted names that a module imports, and the attributes of them that it uses."""
    tree = parse(PATHS[module])
    names = set()
    bound: dict[str, str] = {}
    nodes = list(runtime_nodes(tree) if in_functions else _at_import(tree))
    if in_functions:
        names |= names_in_strings(tree)
    if with_types:
        nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                names.add(alias.name)
                bound[alias.asname or alias.name.partition(".")[0]] = alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names.add(f"{node.module}.{alias.name}")
                bound[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)):
            continue
        if node.value.id in bound:
            names.add(f"{bound[node.value.id]}.{node.attr}")
    return frozenset(names)


def _at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yields the statements that run when a module is imported: none of those in functions."""
    queue: list[ast.stmt] = list(tree.body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            queue += node.orelse
        else:
            queue += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def _is_facade(module: str) -> bool:
    return PATHS[module].name == "__init__.py"


@functools.cache
def _passed_on(module: str) -> dict[str, str]:
    """Returns the names that a facade imports, with their dotted names; of other modules none."""
    if not _is_facade(module):
        return {}
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(parse(PATHS[module]))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _defining_module(name: str) -> str | None:
    """Returns the module that defines a dotted name, through the facades that pass it on."""
    for _ in range(5):
        module = name
        while module and module not in PATHS:
            module = module.rpartition(".")[0]
        attribute = name.removeprefix(module).lstrip(".").partition(".")[0]
        if not module or attribute not in _passed_on(module):
            return module or None
        name = _passed_on(module)[attribute]
    return None


def uses(module: str, *, with_types: bool = False) -> set[str]:
    """Returns the modules whose code a module uses, without the facades between them.

    Imports under `if TYPE_CHECKING:` count only `with_types`.
    """
    targets = {
        _defining_module(name) for name in _names(module, in_functions=True, with_types=with_types)
    }
    used = {target for target in targets if target and not _is_facade(target)}
    if module == "tests.cli.command":
        used |= {"mtfrun.cli.main", *_named_by_gin_files()}
    folder = PATHS[module].parent
    while folder != ROOT and folder.is_relative_to(ROOT / "tests"):
        conftest = module_name(folder / "conftest.py")
        used |= {conftest} & set(PATHS)
        folder = folder.parent
    return used - {module}


@functools.cache
def _named_by_gin_files() -> set[str]:
    """Returns the modules of the classes that shipped gin files name, which commands build.

    A class that only a gin text in a test names is not among them.
    """
    modules = set()
    for path in (ROOT / "gin").rglob("*.gin"):
        text = path.read_text(encoding="utf-8")
        packages = re.findall(r"^from (mtfrun[\w.]*) import (\w+)$", text, re.MULTILINE)
        for package, name in packages:
            for used in re.findall(rf"\b{name}\.(\w+)", text):
                modules.add(_defining_module(f"{package}.{name}.{used}"))
    return {module for module in modules if module and not _is_facade(module)}


def _is_test(path: pathlib.Path) -> bool:
    return path.name.startswith("test_")


def reached_tests(changed: set[pathlib.Path]) -> list[pathlib.Path]:
    """Returns the test files that a change of these files can reach, the nearest ones first."""
    users: dict[str, set[str]] = {}
    for module in PATHS:
        for used in uses(module):
            users.setdefault(used, set()).add(module)
    distances: dict[str, int] = {}
    for path in changed:
        if path.suffix == ".py" and module_name(path) in PATHS:
            distances[module_name(path)] = 0
        folders = [
            ROOT / folder
            for changed_folder, folders in READ_BY.items()
            if path.is_relative_to(ROOT / changed_folder)
            for folder in folders
        ]
        for module, test in PATHS.items():
            if any(test.is_relative_to(folder) for folder in folders) and _is_test(test):
                distances[module] = 1
    queue = deque(distances)
    while queue:
        module = queue.popleft()
        for user in sorted(users.get(module, ())):
            if user not in distances:
                distances[user] = distances[module] + 1
                queue.append(user)
    tests = [module for module in distances if _is_test(PATHS[module])]
    return [PATHS[module] for module in sorted(tests, key=lambda m: (distances[m], m))]


def tests_and_examples() -> Iterator[tuple[pathlib.Path, bool]]:
    """Yields the test files and the modules with examples, and whether they import TensorFlow."""
    for module, path in PATHS.items():
        if needs_deleted_extra(path):
            continue
        if _is_test(path):
            first = {module, *(name for name in uses(module) if name.endswith(".conftest"))}
            first.discard("tests.conftest")
        elif path.is_relative_to(ROOT / "mtfrun") and ">>>" in path.read_text("utf-8"):
            first = {module}
        else:
            continue
        yield path, _needs_tensorflow(first)


def _needs_tensorflow(first: set[str]) -> bool:
    """Returns whether the import of modules, or their functions, import TensorFlow."""
    seen = set(first)
    queue = list(first)
    while queue:
        module = queue.pop()
        if module in HIDDEN_TENSORFLOW or module.startswith(_APART):
            return True
        names = _names(module, in_functions=module in first)
        if any(name.partition(".")[0] in TENSORFLOW for name in names):
            return True
        imported = {target for name in {*names, module} for target in _modules_on_the_way(name)}
        queue += imported - seen
        seen |= imported
    return False


def _modules_on_the_way(name: str) -> Iterator[str]:
    """Yields the modules that an import of a dotted name runs: packages, and the module."""
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        module = ".".join(parts[:end])
        if module in PATHS:
            yield module


def _changed_files() -> set[pathlib.Path]:
    """Returns the files that differ from where this branch left main, or from the last commit."""

    def git(*arguments: str) -> str:
        process = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
        )
        return process.stdout

    bases = [git("merge-base", "HEAD", name).strip() for name in ("origin/main", "main")]
    base = next((base for base in bases if base), "HEAD")
    names = git("diff", "--name-only", base).splitlines()
    names += git("ls-files", "--others", "--exclude-standard").splitlines()
    return {ROOT / name for name in names}


def main() -> None:
    """Prints the files that changes reach, one a line."""
    gc.disable()  # syntax trees are many objects, which all remain
    for path in reached_tests(_changed_files()):
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
