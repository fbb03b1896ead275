"""Source of labelled definitions: the glosses of WordNet."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

from mtfrun.data.features import INPUTS, TARGETS
from mtfrun.data.sources.records import BadRecordError, LineRecordFiles
from mtfrun.data.sources.source import Patterns

# The names of the lexicographer files, in the order of their numbers: lexnames(5WN).
WORDNET_CLASSES = (
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
    return WORDNET_CLASSES


# Lines of the licence at the beginning of every file, which begin with two spaces.
_LICENCE_LINES = 29


@dataclasses.dataclass(frozen=True)
class WordNetGlosses(LineRecordFiles):
    """The definition of every meaning in WordNet, with its class, one of 45.

    The files are data.noun, data.verb, data.adj and data.adv of WordNet 3.0, in Debian's package
    wordnet-base, in the format of wndb(5WN): 117,659 definitions with examples of use. The fields
    are "inputs", the definition; "targets", the class, such as "noun.animal"; and "words", the
    words with this meaning. A hash of the definition decides its split. Fellbaum 1998, WordNet: An
    Electronic Lexical Database.
    """

    patterns: Patterns | Mapping[str, Patterns] = "/usr/share/wordnet/data.*"

    def _numbered_records(self, path: str) -> Iterator[tuple[int, bytes]]:
        return enumerate(self._records(path), 1 + _LICENCE_LINES)

    def _records(self, path: str) -> Iterator[bytes]:
        return itertools.dropwhile(lambda line: line.startswith(b"  "), super()._records(path))

    def _key(self, record: bytes) -> bytes:
        return record.partition(b"| ")[2]

    def _fields(self, record: bytes) -> Mapping[str, bytes]:
        # offset, number of the class, part of speech, number of words (hexadecimal), then pairs of
        # a word and its number; pointers to other meanings; a bar; the definition.
        data, bar, gloss = record.partition(b"| ")
        try:
            _, number, _, count, *words = data.split()
            name = WORDNET_CLASSES[int(number)]
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
