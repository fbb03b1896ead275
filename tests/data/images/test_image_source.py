"""Image data without images."""

from __future__ import annotations

import pytest

from mtfrun.data import ImageData, NoImages
from mtfrun.data.errors import DataError


def test_a_model_knows_its_classes_and_reading_names_the_remedy() -> None:
    data = ImageData(NoImages(["cat", "dog"], channels=1), image_size=8)
    assert data.label_names == ("cat", "dog")
    assert data.image.to_integer_list == [8, 8, 1]
    with pytest.raises(DataError, match=r"names no images .* --gin_file=data/image_folders\.gin"):
        data.rows("train")
    with pytest.raises(DataError, match="names no images"):
        data.fingerprint()
