"""Texts of packages of Debian: help pages, WordNet."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun import data
from mtfrun.extras import datasets

GERMAN = """<html><h1 id="hd_id1" dir="auto">Ein <b>Titel</b></h1>
<p id="par_id2" class="paragraph">Der
 Abs&auml;tze</p> <p id="par_id3">nur hier</p><p>ohne</p> <p id="par_id4">LibreOffice</p>
<p id="par_id5"><span class="switchinline">Mac oder</span></p><p id="par_id6"> </p></html>"""
ENGLISH = """<html><h1 id="hd_id1" dir="auto">A title</h1>
<p id="par_id2">The paragraphs &lt;2&gt;</p>
<p id="par_id4">LibreOffice</p><p id="par_id5"><span class="switchinline">Mac or</span></p>
<p id="par_id6">empty there</p></html>"""


def _write(root: pathlib.Path, name: str, german: str, english: str) -> None:
    for language, text in (("de", german), ("en-US", english)):
        path = root / language / "text" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _pairs(source: datasets.LibreOfficeHelp) -> list[tuple[bytes, bytes]]:
    return [
        (x.fields["inputs"], x.fields["targets"])
        for split in source.splits
        for x in source.examples(split)
    ]


def test_paragraphs_of_both_languages_are_pairs_without_markup(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, "shared/a.html", GERMAN, ENGLISH)
    assert _pairs(datasets.LibreOfficeHelp(str(tmp_path))) == [
        (b"Ein Titel", b"A title"),
        ("Der Absätze".encode(), b"The paragraphs <2>"),
    ]
    reverse = datasets.LibreOfficeHelp(str(tmp_path), ["en-US", "de"])
    assert _pairs(reverse)[0] == (b"A title", b"Ein Titel")


def test_a_pair_in_several_files_is_one_example_of_one_split(tmp_path: pathlib.Path) -> None:
    for i in range(40):
        own = f'<p id="par_id9">{{}} {i}</p>'
        _write(tmp_path, f"{i}.html", GERMAN + own.format("Nummer"), ENGLISH + own.format("Number"))
    pairs = _pairs(datasets.LibreOfficeHelp(str(tmp_path)))
    assert len(pairs) == len(set(pairs)) == 2 + 40


def test_a_changed_file_changes_the_fingerprint_and_a_missing_package_is_named(
    tmp_path: pathlib.Path,
) -> None:
    source = datasets.LibreOfficeHelp(str(tmp_path))
    with pytest.raises(data.DataError, match=r"has no \.html file: install Debian's package"):
        list(source.examples("train"))
    _write(tmp_path, "a.html", GERMAN, ENGLISH)
    before = source.fingerprint("train")
    assert before == source.fingerprint("train") != source.fingerprint("test")
    _write(tmp_path, "a.html", GERMAN, ENGLISH + "<p>more</p>")
    assert source.fingerprint("train") != before


LICENCE = "".join(
    f"  {i} This software and database is being provided to you  \n" for i in range(1, 30)
)
ANIMAL = '02084071 05 n 02 dog 0 domestic_dog 0 003 @ 02083346 n 0000 | a canine; "it barked"  \n'
ABLE = "00001740 00 a 01 able 0 000 | having the means\n"


def _source(tmp_path: pathlib.Path, lines: str) -> datasets.WordNetGlosses:
    (tmp_path / "data.noun").write_text(LICENCE + lines)
    return datasets.WordNetGlosses({"train": str(tmp_path / "data.*")})


def test_a_definition_has_its_class_and_the_words_that_mean_it(tmp_path: pathlib.Path) -> None:
    dog, able = (x.fields for x in _source(tmp_path, ANIMAL + ABLE).examples("train"))
    assert dog == {
        "inputs": b'a canine; "it barked"',
        "targets": b"noun.animal",
        "words": b"dog, domestic dog",
    }
    assert able["targets"] == b"adj.all"
    classes = datasets.wordnet_classes()
    assert len(set(classes)) == 45
    # lexnames(5WN)
    names = ["noun.Tops", "noun.person", "noun.time", "verb.body", "adj.ppl"]
    assert [classes[i] for i in (3, 18, 28, 29, 44)] == names


@pytest.mark.parametrize("line", ["no number", "1 99 n 01 x 0 000 | y", "1 05 n 01 x 0 000 y"])
def test_another_line_is_refused_with_its_place(tmp_path: pathlib.Path, line: str) -> None:
    source = _source(tmp_path, ANIMAL + line + "\n")
    with pytest.raises(data.DataError, match=r"data\.noun:31: not a line of a WordNet data file"):
        list(source.examples("train"))


def test_a_definition_is_in_one_split_whatever_its_words(tmp_path: pathlib.Path) -> None:
    lines = [f"{i} 05 n 01 word{i} 0 000 | gloss {i % 40}\n" for i in range(400)]
    (tmp_path / "data.noun").write_text(LICENCE + "".join(lines))
    source = datasets.WordNetGlosses(str(tmp_path / "data.noun"))
    splits = [{x.fields["inputs"] for x in source.examples(split)} for split in source.splits]
    assert sum(map(len, splits)) == len(set.union(*splits)) == 40
