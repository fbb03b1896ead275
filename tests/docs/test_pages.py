"""The pages: their links have targets, and their commands have flags and files that exist."""

from __future__ import annotations

import itertools
import pathlib
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence

import pytest

from mtfrun.cli.parser import all_commands, parse_flags
from mtfrun.configuration.entry_points import entry_points

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
# An extra that is deleted may leave its page behind.
_PAGES_OF_EXTRAS = [
    page for page in DOCS.glob("extras/*.md") if (ROOT / "mtfrun/extras" / page.stem).is_dir()
]
PAGES = sorted([*DOCS.glob("*.md"), *_PAGES_OF_EXTRAS, *ROOT.glob("*.md")])
SHIPPED = {path.relative_to(ROOT / "gin").as_posix() for path in (ROOT / "gin").rglob("*.gin")}
# A variable of the shell, or an array of it; or a command.
_SHELL_LINE = re.compile(
    r'^(?:([A-Z_]+)=(?:"([^"]*)"|\((.*?)\))$|(mtfrun [a-z][^\n]*))', re.MULTILINE | re.DOTALL
)
_VARIABLE = re.compile(r'"\$\{([A-Z_]+)\[@\]\}"|\$([A-Z_]+)')
# Code: fenced, or indented by four spaces behind an empty line or more code.
_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_GIN_NAME = re.compile(r"`((?:runs|models|data|layouts|optimizers|schedules|tasks)/[\w.]+\.gin)`")

every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


def anchors(text: str) -> set[str]:
    """Returns the anchors of the headings of a page, as mkdocs and GitHub name them."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", title).strip().lower() for title in titles]
    return {re.sub(r"[-\s]+", "-", title) for title in plain}


def code_lines(text: str) -> list[str]:
    """Returns the lines of code of a page, those that a backslash continues joined."""
    lines: list[str] = []
    fenced = False
    for line in text.splitlines():
        if line.startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            lines.append(line.strip())
    return "\n".join(lines).replace("\\\n", " ").split("\n")


def commands(text: str) -> Iterator[str]:
    """Yields the commands of a page, with the variables that it has set."""
    variables: dict[str, str] = {}
    for name, text_value, array, command in _SHELL_LINE.findall("\n".join(code_lines(text))):
        if name:
            variables[name] = text_value or array
        elif "..." not in command:
            yield _VARIABLE.sub(lambda use: variables.get(use[1] or use[2], use[0]), command)


@every_page
def test_links_have_targets(page: pathlib.Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in _LINK.findall(text):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name) if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@every_page
def test_links_of_pages_stay_in_the_site(page: pathlib.Path) -> None:
    if page.is_relative_to(DOCS):
        links = _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
        paths = [(page.parent / link.partition("#")[0]).resolve() for link in links]
        assert [path for path in paths if not path.is_relative_to(DOCS)] == []


def test_navigation_has_at_most_nine_entries_a_group() -> None:
    lines = (ROOT / "mkdocs.yml").read_text("utf-8").partition("\nnav:\n")[2].splitlines()
    sizes = {len(line) - len(line.lstrip()): 0 for line in lines}
    for line in lines:
        indent = len(line) - len(line.lstrip())
        sizes |= {deeper: 0 for deeper in sizes if deeper > indent}
        sizes[indent] += 1
        assert indent == 2 or sizes[indent] <= 9, line


def test_code_on_the_first_page_is_not_cut_off() -> None:
    lines = (DOCS / "index.md").read_text("utf-8").splitlines()
    assert [line for line in lines if line.startswith("    ") and len(line) > 94] == []


def _is_deleted(words: Sequence[str]) -> bool:
    """Returns whether a command, or a format, is that of an extra that is deleted."""
    extras = {page.stem for page in (DOCS / "extras").glob("*.md")}
    if all((ROOT / "mtfrun/extras" / name).is_dir() for name in extras):
        return False
    command = " ".join(itertools.takewhile(lambda word: word.isalpha(), words))
    names = [word.partition("=")[2] for word in words if word.startswith("--format=")]
    return command not in all_commands() or not entry_points("mtfrun.exporters").keys() >= {*names}


@every_page
def test_commands_have_flags_that_exist(
    page: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "mtfrun.cli.command.is_directory", lambda path: not str(path).endswith(".jsonl")
    )
    for command in commands(page.read_text(encoding="utf-8")):
        words = shlex.split(command, comments=True)[1:]
        words = words[: words.index("|")] if "|" in words else words
        if _is_deleted(words):
            continue
        flags = parse_flags([word for word in words if word != ">"])
        for file in (flags.launched or flags).gin_file:
            folder = file.partition("/")[0]
            if folder in ("runs", "models", "layouts", "tasks"):
                assert file in SHIPPED, command


@every_page
def test_gin_files_exist(page: pathlib.Path) -> None:
    if page.name != "CHANGELOG.md":  # which also names those of former versions
        names = set(_GIN_NAME.findall(page.read_text(encoding="utf-8")))
        assert names <= SHIPPED


def test_commands_and_anchors_are_found() -> None:
    text = (
        '# A: the `b`\n\n    F="--gin_file=runs/x.gin"\n    mtfrun train $F \\\n        --debug\n'
    )
    assert list(commands(text)) == ["mtfrun train --gin_file=runs/x.gin  --debug"]
    text += """
    F=(--gin_file=runs/y.gin
        --gin.A="'b'")
    mtfrun train "${F[@]}" --debug
"""
    assert list(commands(text))[1].split() == [
        *("mtfrun", "train", "--gin_file=runs/y.gin", "--gin.A=\"'b'\"", "--debug")
    ]
    assert anchors(text) == {"a-the-b"}
    pages = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
    assert len(list(commands(pages["commands.md"]))) >= 15
    assert len(list(commands(pages["your_own_data.md"]))) > 10


@pytest.mark.slow
def test_the_site_is_built() -> None:
    built = subprocess.run([ROOT / "bin" / "docs"], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    site = ROOT / "build" / "site"
    assert (site / "index.html").exists()
    reference = (site / "reference" / "mtf.html").read_text(encoding="utf-8")
    assert "mtfrun.mtf.einsum" in reference and "reduced_dims" in reference
