"""WordNet's data files: definitions and their classes."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun import data

LICENCE = "".join(
    f"  {i} This software and database is being provided to you  \n" for i in range(1, 30)
)
ANIMAL = '02084071 05 n 02 dog 0 domestic_dog 0 003 @ 02083346 n 0000 | a canine; "it barked"  \n'
ABLE = "00001740 00 a 01 able 0 000 | having the means\n"


def _source(tmp_path: pathlib.Path, lines: str) -> data.WordNetGlosses:
    (tmp_path / "data.noun").write_text(LICENCE + lines)
    return data.WordNetGlosses({"train": str(tmp_path / "data.*")})


def test_a_definition_has_its_class_and_the_words_that_mean_it(tmp_path: pathlib.Path) -> None:
    dog, able = (x.fields for x in _source(tmp_path, ANIMAL + ABLE).examples("train"))
    assert dog == {
        "inputs": b'a canine; "it barked"',
        "targets": b"noun.animal",
        "words": b"dog, domestic dog",
    }
    assert able["targets"] == b"adj.all"


def test_there_are_45_classes_in_the_order_of_their_numbers() -> None:
    classes = data.wordnet_classes()
    assert len(set(classes)) == 45
    # lexnames(5WN)
    assert [classes[i] for i in (0, 3, 18, 28, 29, 44)] == [
        *("adj.all", "noun.Tops", "noun.person", "noun.time", "verb.body", "adj.ppl")
    ]


@pytest.mark.parametrize("line", ["no number", "1 99 n 01 x 0 000 | y", "1 05 n 01 x 0 000 y"])
def test_another_line_is_refused_with_its_place(tmp_path: pathlib.Path, line: str) -> None:
    source = _source(tmp_path, ANIMAL + line + "\n")
    with pytest.raises(data.DataError, match=r"data\.noun:31: not a line of a WordNet data file"):
        list(source.examples("train"))


def test_a_definition_is_in_one_split_whatever_its_words(tmp_path: pathlib.Path) -> None:
    lines = [f"{i} 05 n 01 word{i} 0 000 | gloss {i % 40}\n" for i in range(400)]
    (tmp_path / "data.noun").write_text(LICENCE + "".join(lines))
    source = data.WordNetGlosses(str(tmp_path / "data.noun"))
    splits = [{x.fields["inputs"] for x in source.examples(split)} for split in source.splits]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 40
