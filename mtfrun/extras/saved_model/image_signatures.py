from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.data.images.crops import CentreCrop
from mtfrun.experiment import Classification
from mtfrun.extras.saved_model.export import Served, Signature, in_batches, signatures_of
from mtfrun.extras.vision import Segmentation

_Outputs = Mapping[str, tf.Tensor]


@signatures_of.register
def _(inference: Classification, *, tensorflow_text: bool = False) -> Served:
    del tensorflow_text
    names = list(inference.data.label_names)
    graph = _ImageGraph(inference, [len(names)], inference.data.centre_crop)
    top = [min(inference.top_k, len(names))]

    def classify(images: tf.Tensor) -> _Outputs:
        kinds = [(top, tf.float32), (top, tf.int32)]
        probabilities, numbers = graph.compute(inference.program, images, kinds)
        probabilities = tf.debugging.check_numerics(
            probabilities, "probabilities are infinite or not a number"
        )
        labels = tf.gather(tf.constant([name.encode() for name in names]), numbers)
        return {
            "label": labels[:, 0],
            "probability": probabilities[:, 0],
            "labels": labels,
            "probabilities": probabilities,
        }

    signatures = graph.signatures("classify", classify, "the likeliest labels", "classes")
    return Served(signatures, "classify", {"image": graph.image, "label_names": names})


@signatures_of.register
def _(inference: Segmentation, *, tensorflow_text: bool = False) -> Served:
    del tensorflow_text
    names = list(inference.data.source.class_names)
    *sizes, _ = inference.data.image.to_integer_list
    graph = _ImageGraph(inference, [*sizes, len(names)])

    def segment(images: tf.Tensor) -> _Outputs:
        kinds = [(sizes, tf.int32), ([], tf.float32)]
        masks, totals = graph.compute(inference.program, images, kinds)
        check = tf.debugging.assert_all_finite(totals, "logits are infinite or not a number")
        with tf.control_dependencies([check]):
            return {"masks": tf.cast(masks, tf.uint8)}

    signatures = graph.signatures("segment", segment, "the class of every pixel", "pixels")
    return Served(signatures, "segment", {"image": graph.image, "class_names": names})


class _ImageGraph:
    """Computes images of one size in batches; `logits` has the sizes of an image's logits."""

    def __init__(
        self,
        inference: Classification | Segmentation,
        logits: Sequence[int],
        crop: CentreCrop | None = None,
    ) -> None:
        self._mesh, self._rows = inference.experiment.mesh, inference.rows
        self._shape = inference.data.shapes(self._rows)["images"]
        self._model, self._logits, self._crop = inference.experiment.model, logits, crop
        self.image = inference.data.image.to_integer_list

    def compute(
        self,
        program: Callable[[mtf.Tensor], Sequence[mtf.Tensor]],
        images: tf.Tensor,
        outputs: Sequence[tuple[Sequence[int], tf.DType]],
    ) -> list[tf.Tensor]:
        """`outputs` are the sizes and the type of each output of an image."""

        def compute(batch: tf.Tensor) -> list[tf.Tensor]:
            batch = tf.ensure_shape(batch, self._shape.to_integer_list)
            return [x.value for x in program(mtf.import_tf_tensor(self._mesh, batch, self._shape))]

        specs = [tf.TensorSpec([self._rows, *sizes], dtype) for sizes, dtype in outputs]
        return in_batches(compute, self._rows, [images], specs)

    def signatures(
        self, name: str, function: Callable[[tf.Tensor], _Outputs], outputs: str, logits_of: str
    ) -> dict[str, Signature]:
        """Returns the signatures of pixels, normalised floats, and files where these are read."""
        program = mtf.function(lambda images: self._model.logits({"images": images}))

        def logits(images: tf.Tensor) -> _Outputs:
            kinds = [(self._logits, tf.float32)]
            (values,) = self.compute(lambda x: [program(x)], images, kinds)
            return {"logits": values}

        def from_files(image_bytes: tf.Tensor) -> _Outputs:
            return function(
                tf.map_fn(
                    lambda content: read_image(self.image, self._crop, content),
                    image_bytes,
                    fn_output_signature=tf.TensorSpec(self.image, tf.uint8),
                )
            )

        signatures = {}
        for suffix, dtype, about in (
            ("", tf.uint8, "pixels, 0 to 255,"),
            ("_normalised", tf.float32, "floats that are normalised already"),
        ):
            images = [tf.TensorSpec([None, *self.image], dtype, "images")]
            signatures[name + suffix] = Signature(images, function, f"{about} to {outputs}")
            about = f"{about} to the logits of all {logits_of}"
            signatures[f"logits{suffix}"] = Signature(images, logits, about)
        if len(self.image) == 3:  # volumes are not read from files
            files = [tf.TensorSpec([None], tf.string, "image_bytes")]
            about = f"contents of PNG and JPEG files to {outputs}"
            signatures[f"{name}_encoded"] = Signature(files, from_files, about)
        return signatures


# JPEG files can be decoded at 1/2, 1/4 or 1/8 of their size, as `data.EncodedImage` does.
_RATIOS = (1, 2, 4, 8)
# Luma of ITU-R 601-2.
_LUMA = (0.299, 0.587, 0.114)


def read_image(image: Sequence[int], crop: CentreCrop | None, content: tf.Tensor) -> tf.Tensor:
    """Returns the pixels of a PNG or JPEG file's content, uint8 [rows, cols, channels].

    As `data.ImageData.read_image`, but pixels differ a little (docs/extras/saved_model.md):
    TensorFlow scales in float32, and Pillow rounds to 8 bits between the two directions. EXIF
    orientation and CMYK colours are ignored.
    """
    rows, cols, channels = image

    def read_png() -> tuple[tf.Tensor, ...]:
        pixels = _decode_png(content, channels)
        return pixels, *_window(image, crop, tf.shape(pixels)[:2])

    def read_jpeg() -> tuple[tf.Tensor, ...]:
        first, size = _window(image, crop, tf.io.extract_jpeg_shape(content)[:2])
        if crop is None:
            return _decode_jpeg(content, channels, 1), first, size
        # A ratio that leaves the size of the result.
        smaller = size[0] // crop.size
        choice = tf.reduce_sum(tf.cast(smaller >= list(_RATIOS[1:]), tf.int32))
        ratio = tf.gather(tf.constant(_RATIOS, tf.float64), choice)
        decoders = [functools.partial(_decode_jpeg, content, channels, n) for n in _RATIOS]
        return tf.switch_case(choice, decoders), first / ratio, size / ratio

    pixels, first, size = tf.cond(tf.io.is_jpeg(content), read_jpeg, read_png)
    if crop is not None:
        # Nothing outside the square has a weight, as where the square is decoded alone.
        begin, end = tf.floor(first), tf.math.ceil(first + size)
        (top, left), (bottom, right) = (tf.unstack(tf.cast(x, tf.int32)) for x in (begin, end))
        pixels, first = pixels[top:bottom, left:right], first - begin
    kernel = "keyscubic" if crop is None else "triangle"
    scaled = _scale(pixels, first, size, [rows, cols], kernel)
    return tf.ensure_shape(scaled, [rows, cols, channels])


def _window(
    image: Sequence[int], crop: CentreCrop | None, shape: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the first row and column of what is scaled, and its size, float64 [2]."""
    whole = tf.cast(shape, tf.float64)
    if crop is None:
        sizes = list(image[:2])
        size = sizes / tf.reduce_max(sizes / whole)
        return (whole - size) / 2, size
    side = tf.maximum(tf.round(tf.reduce_min(whole) * crop.size / crop.resize), 1.0)
    return tf.floor((whole - side) / 2), tf.stack([side, side])


def _decode_jpeg(content: tf.Tensor, channels: int, ratio: int) -> tf.Tensor:
    # The accurate method of libjpeg, which Pillow uses.
    pixels = tf.io.decode_jpeg(content, channels, ratio=ratio, dct_method="INTEGER_ACCURATE")
    return tf.cast(pixels, tf.float32)


def _decode_png(content: tf.Tensor, channels: int) -> tf.Tensor:
    """Puts transparent pixels on white."""
    # In the file's channels: grey, grey and alpha, colour, or colour and alpha.
    pixels = tf.cast(tf.io.decode_png(content, 0), tf.float32)
    number = tf.shape(pixels)[2]
    colours = number - (1 - number % 2)
    alpha = tf.where(number > colours, pixels[..., -1:], 255.0) / 255.0
    pixels = pixels[..., :colours] * alpha + 255.0 * (1.0 - alpha)
    pixels = tf.broadcast_to(pixels, tf.concat([tf.shape(pixels)[:2], [3]], 0))
    return pixels if channels == 3 else tf.reduce_sum(pixels * _LUMA, axis=-1, keepdims=True)


def _scale(
    pixels: tf.Tensor, first: tf.Tensor, size: tf.Tensor, result: list[int], kernel: str
) -> tf.Tensor:
    """Scales a window, from `first`, of `size`, of float32 pixels; returns uint8."""
    # `tf.image.resize` does the same for windows of whole pixels only.
    scale = result / size
    scaled = tf.raw_ops.ScaleAndTranslate(
        images=pixels[None],
        size=result,
        scale=tf.cast(scale, tf.float32),
        translation=tf.cast(-first * scale, tf.float32),
        kernel_type=kernel,
        antialias=True,
    )
    return tf.saturate_cast(tf.round(scaled[0]), tf.uint8)
