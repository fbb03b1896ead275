"""The loss of a classifier of images, and what is measured with it."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.errors import InputError
from mtfrun.layers import regularised_cross_entropy
from mtfrun.models.model import Loss, Metric
from mtfrun.models.resnet.mixup import before_in_batch, mixed, mixing_shares

# Labels {batch} int32, and the share {batch} float32 that each has in its image.
Targets = list[tuple[mtf.Tensor, mtf.Tensor]]

# What is differentiated, beside the metrics.
_TRAINED = "trained"
_TOP = 5


@dataclasses.dataclass(frozen=True)
class ImageLoss:
    """The cross entropy of every image, with what regularises it in training.

    label_smoothing: the share of the target that is spread over all classes.
    mixup_alpha: train on mixtures of two images, see `mixing_shares`; 0 for none.
    """

    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise InputError(f"label_smoothing={self.label_smoothing} must be in [0, 1)")
        if self.mixup_alpha < 0.0:
            raise InputError(f"mixup_alpha={self.mixup_alpha} must not be negative")

    def mix(
        self,
        images: mtf.Tensor,
        labels: mtf.Tensor,
        weights: mtf.Tensor,
        *,
        training: bool,
        key: mtf.Key | None,
    ) -> tuple[mtf.Tensor, Targets]:
        """Returns what the network is to see, and the targets; mixtures in training with mixup.

        Args:
          images: {batch, ...}.
          labels: {batch} int32.
          weights: {batch} float32, 0 for what fills up a batch.
          training: whether to mix.
          key: of this step.

        Raises:
          InputError: there is no key to mix with.
        """
        if not (training and self.mixup_alpha):
            return images, [(labels, mtf.ones_like(weights))]
        if key is None:
            raise InputError("mixup needs a key in training")
        shares = mixing_shares(weights, key.fold_in("mixup"), self.mixup_alpha)
        targets = [(labels, shares), (before_in_batch(labels), 1.0 - shares)]
        return mixed(images, shares), targets

    def __call__(
        self, logits: mtf.Tensor, targets: Targets, weights: mtf.Tensor, *, training: bool
    ) -> Loss:
        """Returns the sum of the cross entropies of all images.

        Metrics: "loss", nats per image without label smoothing; "accuracy", the share of labels
        that no other class's logit exceeds; "top_5_accuracy", that at most four exceed. With mixup
        they are means over both labels of a mixture, in the images' shares.

        Args:
          logits: {batch, classes} float32.
          targets: of `mix`.
          weights: {batch} float32.
          training: whether to smooth the labels.
        """
        weight = mtf.reduce_sum(weights)
        sums: dict[str, mtf.Tensor] = {}
        for labels, shares in targets:
            for name, values in self._per_image(logits, labels, training).items():
                total = mtf.reduce_sum(values * (weights * shares))
                sums[name] = sums[name] + total if name in sums else total
        trained = sums.pop(_TRAINED, sums["loss"])
        return Loss(trained, weight, {name: Metric(total, weight) for name, total in sums.items()})

    def _per_image(
        self, logits: mtf.Tensor, labels: mtf.Tensor, training: bool
    ) -> dict[str, mtf.Tensor]:
        """Returns the metrics of every image, {batch}, by name.

        Where something else than "loss" is trained on, it is there too.
        """
        classes = logits.shape.get_dim_by_name("classes")
        smoothed = training and bool(self.label_smoothing)
        cross_entropy = mtf.sparse_cross_entropy(
            logits, labels, classes, logsumexp_gradient=smoothed
        )
        rank = _rank(logits, labels, classes)
        metrics = {
            "loss": cross_entropy.loss,
            "accuracy": mtf.to_float(mtf.equal(cross_entropy.margin, 0.0)),
            "top_5_accuracy": mtf.to_float(mtf.less(rank, _TOP)),
        }
        if smoothed:
            metrics[_TRAINED] = regularised_cross_entropy(
                cross_entropy, logits, classes, label_smoothing=self.label_smoothing, z_loss=0.0
            )
        return metrics


def _rank(logits: mtf.Tensor, labels: mtf.Tensor, classes: mtf.Dimension) -> mtf.Tensor:
    """Returns how many classes have a larger logit than the label; {batch}."""
    of_label = mtf.reduce_sum(logits * mtf.one_hot(labels, classes), reduced_dim=classes)
    larger = mtf.to_float(mtf.greater(logits, of_label))
    return mtf.reduce_sum(larger, reduced_dim=classes)
