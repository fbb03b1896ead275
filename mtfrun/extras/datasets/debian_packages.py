"""Texts in packages of Debian: LibreOffice's help in two languages, the glosses of WordNet."""

from __future__ import annotations

import dataclasses
import hashlib
import html
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mtfrun.data.errors import DataError
from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.files import absolute_path, file_state
from mtfrun.data.sources.records import BadRecordError, RecordFiles
from mtfrun.data.sources.source import Example, Patterns, Source
from mtfrun.data.sources.streams import naming_the_file
from mtfrun.data.splits import SPLITS, split_of

# Paragraphs and headings have the same identifier in every language.
_ELEMENT = re.compile(rb'<(p|h[1-6]) id="((?:par|hd)_[^"]*)"[^>]*>(.*?)</\1>', re.DOTALL)
_TAG = re.compile(rb"<[^>]*>")
# Several alternatives in one paragraph, for different operating systems.
_ALTERNATIVES = b"switchinline"


@dataclasses.dataclass(frozen=True)
class LibreOfficeHelp(Source):
    """Paragraphs of LibreOffice's help and their translations.

    Debian's packages libreoffice-help-en-us and libreoffice-help-de have 37,360 pairs (version
    25.2.3; MPL-2.0). The fields of an example are "inputs", in the first language, and "targets".
    Repeated pairs are one example; texts without a translation are left out. A hash of a file's
    path decides the split of its pairs: 80 % train, 10 % validation, 10 % test.

    Attributes:
      directory: has a directory for every language.
      languages: names of these directories, of the first and of the second language.
    """

    directory: str = "/usr/share/libreoffice/help"
    languages: Sequence[str] = ("de", "en-US")

    def __post_init__(self) -> None:
        if len(self.languages) != 2:
            raise DataError(f"LibreOfficeHelp.languages must be two, not {self.languages}")

    @property
    def splits(self) -> tuple[str, ...]:
        return SPLITS

    def examples(self, split: str) -> Iterator[Example]:
        self.check_split(split)
        pairs: set[bytes] = set()
        for name in self._names():
            first, second = (_paragraphs(self._text(x) / name) for x in self.languages)
            for identifier, inputs in first.items():
                targets = second.get(identifier, inputs)
                # All pairs are remembered, so that none is in two splits.
                digest = hashlib.sha256(b"\t".join([inputs, targets])).digest()[:16]
                if inputs != targets and digest not in pairs:
                    pairs.add(digest)
                    if split_of(name) == split:
                        yield Example({INPUTS: inputs, TARGETS: targets})

    def fingerprint(self, split: str) -> object:
        self.check_split(split)
        pairs = itertools.product(self._names(), self.languages)
        files = [(x, name, file_state(self._text(x) / name)) for name, x in pairs]
        digest = hashlib.sha256(repr(files).encode()).hexdigest()
        settings = [str(self.directory), *self.languages]
        return {"source": type(self).__name__, "part": split, "settings": settings, "files": digest}

    def _text(self, language: str) -> Path:
        return absolute_path(self.directory) / language / "text"

    def _names(self) -> list[str]:
        """Returns the files that both languages have, sorted; paths below `_text`."""
        names = []
        for language in self.languages:
            root = self._text(language)
            paths = {str(path.relative_to(root)) for path in root.glob("**/*.html")}
            if not paths:
                package = f"libreoffice-help-{language.lower()}"
                raise DataError(f"{root} has no .html file: install Debian's package {package}")
            names.append(paths)
        return sorted(names[0] & names[1])


def _paragraphs(path: Path) -> dict[bytes, bytes]:
    """Returns the text of every paragraph by its identifier, without markup, on one line."""
    with naming_the_file(str(path)):
        page = path.read_bytes()
    texts: dict[bytes, bytes] = {}
    for _, identifier, content in _ELEMENT.findall(page):
        text = html.unescape(_TAG.sub(b"", content).decode("utf-8", "replace"))
        line = " ".join(text.split()).encode()
        if line and _ALTERNATIVES not in content:
            texts.setdefault(identifier, line)
    return texts


# The names of the lexicographer files, in the order of their numbers: lexnames(5WN).
_WORDNET_CLASSES = (
    *("adj.all", "adj.pert", "adv.all", "noun.Tops", "noun.act", "noun.animal", "noun.artifact"),
    *("noun.attribute", "noun.body", "noun.cognition", "noun.communication", "noun.event"),
    *("noun.feeling", "noun.food", "noun.group", "noun.location", "noun.motive", "noun.object"),
    *("noun.person", "noun.phenomenon", "noun.plant", "noun.possession", "noun.process"),
    *("noun.quantity", "noun.relation", "noun.shape", "noun.state", "noun.substance"),
    *("noun.time", "verb.body", "verb.change", "verb.cognition", "verb.communication"),
    *("verb.competition", "verb.consumption", "verb.contact", "verb.creation", "verb.emotion"),
    *("verb.motion", "verb.perception", "verb.possession", "verb.social", "verb.stative"),
    *("verb.weather", "adj.ppl"),
)


def wordnet_classes() -> tuple[str, ...]:
    """Returns the names of the 45 classes, for `Task.labels`."""
    return _WORDNET_CLASSES


@dataclasses.dataclass(frozen=True)
class WordNetGlosses(RecordFiles):
    """The definition of every meaning in WordNet, with its class, one of 45.

    The files are data.noun, data.verb, data.adj and data.adv of WordNet 3.0, in Debian's package
    wordnet-base, in the format of wndb(5WN): 117,659 definitions with examples of use. The fields
    are "inputs", the definition; "targets", the class, such as "noun.animal"; and "words", the
    words with this meaning. A hash of the definition decides its split. Fellbaum 1998, WordNet: An
    Electronic Lexical Database.
    """

    patterns: Patterns | Mapping[str, Patterns] = "/usr/share/wordnet/data.*"

    def _records(self, path: str) -> Iterator[tuple[int, bytes]]:
        # The licence at the beginning of every file begins with two spaces.
        return itertools.dropwhile(lambda line: line[1].startswith(b"  "), super()._records(path))

    def _key(self, record: bytes) -> bytes:
        return record.partition(b"| ")[2]

    def _fields(self, record: bytes) -> Mapping[str, bytes]:
        # offset, number of the class, part of speech, number of words (hexadecimal), then pairs of
        # a word and its number; pointers to other meanings; a bar; the definition.
        data, bar, gloss = record.partition(b"| ")
        try:
            _, number, _, count, *words = data.split()
            name = _WORDNET_CLASSES[int(number)]
            names = words[: 2 * int(count, 16) : 2]
        except (ValueError, IndexError) as error:
            raise BadRecordError(f"not a line of a WordNet data file: {error}") from error
        if not bar:
            raise BadRecordError("not a line of a WordNet data file: there is no definition")
        return {
            INPUTS: gloss.strip(),
            TARGETS: name.encode(),
            "words": b", ".join(names).replace(b"_", b" "),
        }
