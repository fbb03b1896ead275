from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from mtfrun import mtf
from mtfrun.experiment import Classification
from mtfrun.experiment.records import require
from mtfrun.models import ImageModel
from mtfrun.tools.conversion.saved_model.batches_graph import in_batches
from mtfrun.tools.conversion.saved_model.export import Served, Signature, signatures_of
from mtfrun.tools.conversion.saved_model.image_files_graph import read_image

_NORMALISED = "floats that are normalised already"


@signatures_of.register
def _(inference: Classification, *, tensorflow_text: bool = False) -> Served:
    del tensorflow_text
    graph = _ImageGraph(inference)
    pixels = [tf.TensorSpec([None, *graph.image], tf.uint8, "images")]
    floats = [tf.TensorSpec([None, *graph.image], tf.float32, "images")]
    files = [tf.TensorSpec([None], tf.string, "image_bytes")]
    to_labels = "to the likeliest labels, as `mtfrun decode` prints them"
    signatures = {
        "classify": Signature(pixels, graph.classify, f"pixels, 0 to 255, {to_labels}"),
        "classify_encoded": Signature(
            files, graph.classify_files, f"contents of PNG and JPEG files {to_labels}"
        ),
        "classify_normalised": Signature(
            floats, graph.classify, f"{_NORMALISED} to the likeliest labels"
        ),
        "logits": Signature(pixels, graph.logits, "pixels, 0 to 255, to the logits of all classes"),
        "logits_normalised": Signature(
            floats, graph.logits, f"{_NORMALISED} to the logits of all classes"
        ),
    }
    settings = {"image": graph.image, "label_names": list(inference.data.label_names)}
    return Served(signatures, "classify", settings)


class _ImageGraph:
    def __init__(self, inference: Classification) -> None:
        self._inference = inference
        self._mesh = inference.experiment.mesh
        model = require(inference.experiment.model, ImageModel, "--format=saved_model", "")
        self._logits = mtf.function(lambda images: model.logits({"images": images}))
        self.image = inference.data.image.to_integer_list
        self._names = [name.encode() for name in inference.data.label_names]
        self._top = min(inference.top_k, len(self._names))

    def classify(self, images: tf.Tensor) -> Mapping[str, tf.Tensor]:
        rows = self._inference.rows
        outputs = [
            tf.TensorSpec([rows, self._top], tf.float32),
            tf.TensorSpec([rows, self._top], tf.int32),
        ]
        probabilities, numbers = self._in_batches(self._inference.program, images, outputs)
        probabilities = tf.debugging.check_numerics(
            probabilities, "probabilities are infinite or not a number"
        )
        labels = tf.gather(tf.constant(self._names), numbers)
        return {
            "label": labels[:, 0],
            "probability": probabilities[:, 0],
            "labels": labels,
            "probabilities": probabilities,
        }

    def classify_files(self, image_bytes: tf.Tensor) -> Mapping[str, tf.Tensor]:
        spec = tf.TensorSpec(self.image, tf.uint8)
        data = self._inference.data
        return self.classify(
            tf.map_fn(lambda x: read_image(data, x), image_bytes, fn_output_signature=spec)
        )

    def logits(self, images: tf.Tensor) -> Mapping[str, tf.Tensor]:
        output = tf.TensorSpec([self._inference.rows, len(self._names)], tf.float32)
        (logits,) = self._in_batches(lambda x: [self._logits(x)], images, [output])
        return {"logits": logits}

    def _in_batches(
        self,
        program: Callable[[mtf.Tensor], Sequence[mtf.Tensor]],
        images: tf.Tensor,
        outputs: Sequence[tf.TensorSpec],
    ) -> list[tf.Tensor]:
        rows = self._inference.rows
        shape = self._inference.data.shapes(rows)["images"]

        def compute(batch: tf.Tensor) -> list[tf.Tensor]:
            batch = tf.ensure_shape(batch, shape.to_integer_list)
            return [x.value for x in program(mtf.import_tf_tensor(self._mesh, batch, shape))]

        return in_batches(compute, rows, [images], outputs)
