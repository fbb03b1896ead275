"""LibreOffice's help: paragraphs that are aligned by their identifiers."""

from __future__ import annotations

import pathlib

import pytest

from mtfrun import data

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


def _pairs(source: data.LibreOfficeHelp) -> list[tuple[bytes, bytes]]:
    return [
        (x.fields["inputs"], x.fields["targets"])
        for split in source.splits
        for x in source.examples(split)
    ]


def test_paragraphs_of_both_languages_are_pairs_without_markup(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, "shared/a.html", GERMAN, ENGLISH)
    assert _pairs(data.LibreOfficeHelp(str(tmp_path))) == [
        (b"Ein Titel", b"A title"),
        ("Der Absätze".encode(), b"The paragraphs <2>"),
    ]
    reverse = data.LibreOfficeHelp(str(tmp_path), ["en-US", "de"])
    assert _pairs(reverse)[0] == (b"A title", b"Ein Titel")


def test_a_pair_in_several_files_is_one_example_of_one_split(tmp_path: pathlib.Path) -> None:
    for i in range(40):
        own = f'<p id="par_id9">{{}} {i}</p>'
        _write(tmp_path, f"{i}.html", GERMAN + own.format("Nummer"), ENGLISH + own.format("Number"))
    pairs = _pairs(data.LibreOfficeHelp(str(tmp_path)))
    assert len(pairs) == len(set(pairs)) == 2 + 40


def test_a_changed_file_changes_the_fingerprint(tmp_path: pathlib.Path) -> None:
    _write(tmp_path, "a.html", GERMAN, ENGLISH)
    source = data.LibreOfficeHelp(str(tmp_path))
    before = source.fingerprint("train")
    assert before == source.fingerprint("train") != source.fingerprint("test")
    _write(tmp_path, "a.html", GERMAN, ENGLISH + "<p>more</p>")
    assert source.fingerprint("train") != before


def test_a_missing_package_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(data.DataError, match=r"has no \.html file: install Debian's package"):
        list(data.LibreOfficeHelp(str(tmp_path)).examples("train"))
