"""Vision Transformer: an encoder of an image's patches."""

from __future__ import annotations

from collections.abc import Callable

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.errors.checks import COUNT, check_range
from mtfrun.extras.vision.patches import cut_into_patches, patch_dims
from mtfrun.layers import Call, Dense, PositionalEmbedding
from mtfrun.models.resnet.classifier import ImageClassifier, ImageLoss
from mtfrun.models.resnet.image_input import ImageInput
from mtfrun.models.transformer import SequenceCall, Stack


class VisionTransformer(ImageClassifier):
    """Logits of the vector before the patches; Dosovitskiy et al. 2020, arXiv:2010.11929, eq. 1-4.

    Args:
      image: {rows, cols, channels} of an image.
      d_model: the size of the vectors between layers.
      patch_size: rows and cols of a patch, of which every image has a whole number.
      stack: a class, called as `stack(mesh, d_model, dtypes)`.
    """

    def __init__(
        self,
        mesh: mtf.Mesh,
        num_classes: int,
        image: mtf.Shape,
        *,
        d_model: int = 192,
        patch_size: int = 4,
        stack: Callable[..., Stack] = Stack,
        image_input: ImageInput = ImageInput(),
        loss: ImageLoss = ImageLoss(),
        dtypes: mtf.DTypePolicy = mtf.DTypePolicy(),
    ) -> None:
        super().__init__(num_classes, image_input, loss)
        check_range("VisionTransformer.patch_size", patch_size, COUNT)
        rows, cols, channels = image.dims
        if rows.size % patch_size or cols.size % patch_size:
            size = f"{rows.size} rows and {cols.size} cols"
            raise InputError(f"VisionTransformer.patch_size={patch_size} must divide {size}")
        self._image, self._patch_size = image, patch_size
        self._d_model = mtf.Dimension("d_model", d_model)
        inside = patch_dims(patch_size)
        self.patches = Dense(mesh, [*inside, channels], [self._d_model], dtypes)
        self._first = mtf.Dimension("length", 1)
        self.first = mtf.Variable(
            mesh,
            [self._first, self._d_model],
            mtf.initializers.RandomNormal(1.0),
            dtypes.master,
            reduced_dims=(),
        )
        number = rows.size * cols.size // patch_size**2 + 1
        self.position = PositionalEmbedding(mesh, number, self._d_model, dtypes)
        self.encoder_stack = stack(mesh, self._d_model, dtypes)
        self.softmax = Dense(mesh, [self._d_model], [self._classes])

    def _classify(self, images: mtf.Tensor, call: Call) -> mtf.Tensor:
        if images.shape.dims[1:] != self._image.dims:
            raise InputError(f"images are {images.shape}, and the model is for {self._image}")
        x = cut_into_patches(images, self._patch_size)
        batch, rows, cols, *inside = x.shape.dims
        # Patches row by row.
        x = mtf.reshape(x, [batch, mtf.Dimension("length", rows.size * cols.size), *inside])
        patches = self.patches(x, call)
        first = mtf.broadcast(
            mtf.cast(self.first, patches.dtype), [batch, self._first, self._d_model]
        )
        x = mtf.concat([first, patches], "length")
        x = x + self.position.first(x.shape.get_dim_by_name("length"))
        sequence = SequenceCall(call.training, call.key, call.collector, bidirectional=True)
        x = self.encoder_stack(x, sequence)
        vector = mtf.reduce_first(x, x.shape.get_dim_by_name("length"))
        return self.softmax(mtf.to_float(vector), call)
