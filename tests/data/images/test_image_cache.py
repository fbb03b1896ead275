"""Caches of images: contents, one build, damage."""

from __future__ import annotations

import pathlib
import resource
import signal

import numpy as np
import pytest
from PIL import Image

from mtfrun.data import DataError, ImageData, ImageFolders, TfdsImages
from mtfrun.data.cache.directory import CacheChoice
from mtfrun.data.images import image_cache
from mtfrun.data.images.crops import CentreCrop, Window
from mtfrun.data.images.image_cache import ImageCache, open_cache
from mtfrun.data.images.image_source import ImageSource
from mtfrun.display import progress
from tests.data.images.photos import save_folders

NAMES = ("a", "b")


def _open(source: ImageSource, tmp_path: pathlib.Path, split: str) -> ImageCache:
    return open_cache(source, split, CacheChoice(cache_dir=str(tmp_path / "cache")))


def _pixels(cache: ImageCache) -> np.ndarray:
    assert cache.pixels is not None
    return cache.pixels


@pytest.mark.slow
def test_a_memory_map_has_the_pixels_and_labels_of_its_source(tmp_path: pathlib.Path) -> None:
    source = TfdsImages("digits", data_dir=str(tmp_path / "tfds"))
    examples = list(source.examples("test"))
    cache = _open(source, tmp_path, "test")
    assert _pixels(cache).shape == (377, 8, 8, 1)
    assert isinstance(_pixels(cache).base, np.memmap)
    assert _pixels(cache).tobytes() == b"".join(example.content for example in examples)
    assert cache.labels.tolist() == [example.label for example in examples]
    assert cache.labels.dtype == np.int32
    written = (cache.directory / "images.bin").stat().st_mtime_ns
    again = _open(source, tmp_path, "test")
    assert (again.directory / "images.bin").stat().st_mtime_ns == written
    assert again.fingerprint == cache.fingerprint
    train = _open(source, tmp_path, "train")
    assert len(train) == 1420 and train.fingerprint != cache.fingerprint


def test_records_have_the_files_of_their_source_at_random(tmp_path: pathlib.Path) -> None:
    save_folders(tmp_path / "images", NAMES, 10)
    source = ImageFolders({"train": str(tmp_path / "images")})
    cache = _open(source, tmp_path, "train")
    files = [path for name in NAMES for path in sorted((tmp_path / "images" / name).iterdir())]
    assert cache.labels.tolist() == [NAMES.index(path.parent.name) for path in files]
    numbers = np.array([13, 0, 4, 4, 19])
    for number, image in zip(numbers, cache.images(numbers), strict=True):
        with Image.open(files[number]) as expected:
            assert image.size == (expected.height, expected.width)
            pixels = np.asarray(expected).astype(int)
        crop = image.crop(Window(0, 0, *image.size), image.size)
        # Two decoders of JPEG, whose rounding differs.
        assert np.abs(crop - pixels).max() <= (0 if files[number].suffix == ".png" else 3)
    # An image that changes makes another cache.
    files[0].write_bytes(files[1].read_bytes())
    other = _open(source, tmp_path, "train")
    assert other.directory != cache.directory and other.fingerprint != cache.fingerprint


@pytest.mark.parametrize("name", ["images.bin", "labels.npy", "manifest.json"])
@pytest.mark.parametrize("is_shorter", [True, False])
def test_a_damaged_cache_of_pixels_is_built_anew(
    name: str, is_shorter: bool, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = TfdsImages("digits", data_dir=str(tmp_path / "tfds"))
    cache = _open(source, tmp_path, "test")
    path, expected = cache.directory / name, (_pixels(cache).tobytes(), cache.labels.tolist())
    content = path.read_bytes()
    path.write_bytes(content[:-5] if is_shorter else content[:-5] + b"\x07" + content[-4:])
    with pytest.raises(DataError, match=r"is damaged.*remove the directory") as caught:
        ImageCache(cache.directory)
    assert "\n" not in str(caught.value)
    cache = _open(source, tmp_path, "test")
    assert (_pixels(cache).tobytes(), cache.labels.tolist()) == expected
    (line,) = capsys.readouterr().err.splitlines()
    assert "is damaged" in line and line.endswith("it is built anew")


def test_a_damaged_record_is_noticed_and_built_anew(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_folders(tmp_path / "images", NAMES, 10)
    source = ImageFolders({"train": str(tmp_path / "images")})
    cache = _open(source, tmp_path, "train")
    path = cache.directory / "images.array_record"
    content = path.read_bytes()
    for damaged in (content[:99] + bytes([content[99] ^ 1]) + content[100:], content[:500]):
        path.write_bytes(damaged)
        assert len(_open(source, tmp_path, "train")) == 20
        assert path.read_bytes() == content
        assert capsys.readouterr().err.count("is damaged") == 1
    # Damage while the cache is in use: every record has a checksum.
    path.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    with pytest.raises(DataError, match=r"is damaged.*remove the directory"):
        cache.images(np.arange(20))


def test_a_cache_is_not_called_damaged_when_too_many_files_are_open(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_folders(tmp_path / "images", NAMES, 2)
    source = ImageFolders({"train": str(tmp_path / "images")})
    _open(source, tmp_path, "train")

    def fail(*_: object) -> None:
        raise RuntimeError("open() failed: Too many open files; at array_record.cc:1")

    monkeypatch.setattr(image_cache, "ArrayRecordReader", fail)
    with pytest.raises(DataError, match=r"cannot be read: .*Too many open files.* not damaged"):
        _open(source, tmp_path, "train")


def test_a_full_disk_is_an_error_of_one_line(tmp_path: pathlib.Path) -> None:
    save_folders(tmp_path / "images", NAMES, 10)
    source = ImageFolders({"train": str(tmp_path / "images")})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
        with pytest.raises(DataError, match=r"cannot write the cache .*: .*too large") as caught:
            _open(source, tmp_path, "train")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert len(_open(source, tmp_path, "train")) == 20


def test_evaluation_and_single_files_have_the_same_pixels(tmp_path: pathlib.Path) -> None:
    save_folders(tmp_path / "images", NAMES, 5)
    data = ImageData(ImageFolders({"validation": str(tmp_path / "images")}), 16, 18)
    (batch,) = data.evaluation(10)
    files = [path for name in NAMES for path in sorted((tmp_path / "images" / name).iterdir())]
    for path, pixels in zip(files, batch["images"], strict=True):
        np.testing.assert_array_equal(data.read_image(str(path)), pixels)
        with Image.open(path) as image:
            window = CentreCrop(16, 18)((image.height, image.width), np.random.default_rng())
            top, left, rows, cols = window
            # Scaled as a whole, then cropped: the edges see other neighbours.
            box = (left, top, left + cols, top + rows)
            expected = image.resize((16, 16), Image.Resampling.BILINEAR, box).getchannel(0)
        assert np.abs(pixels[2:-2, 2:-2, 0] - np.asarray(expected, int)[2:-2, 2:-2]).max() <= 4


def test_progress_is_told(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(image_cache, "_IMAGES_PER_REPORT", 125)
    monkeypatch.setattr(progress, "LINE_SECS", 0.0)
    monkeypatch.setattr(progress, "_SHARE_BETWEEN_LINES", 0.0)
    open_cache(TfdsImages("digits"), "test", CacheChoice(cache_dir=str(tmp_path)))
    *lines, last = capsys.readouterr().err.splitlines()
    assert lines == [f"caching digits test: 0.0 MB, {n} images" for n in (125, 250, 375)]
    assert last.startswith("caching digits test: 0.0 MB, 375 images in 0:")
