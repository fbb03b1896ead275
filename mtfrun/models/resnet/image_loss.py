"""The loss of an image classifier, and its metrics."""

from __future__ import annotations

import dataclasses

from mtfrun import mtf
from mtfrun.checks import NOT_NEGATIVE, SHARE_BELOW_1, check_fields
from mtfrun.errors import InputError
from mtfrun.layers import Call, Metric, regularised_cross_entropy
from mtfrun.models.model import Loss
from mtfrun.models.resnet.mixup_and_cutmix import (
    cut_rectangles,
    mix_with_previous,
    mixing_coefficients,
    paste_previous,
    previous_in_batch,
    uncut_fraction,
)

# Pairs of labels {batch} int32 and their coefficients {batch} float32, which add up to 1.
Targets = list[tuple[mtf.Tensor, mtf.Tensor]]

# The entry of the metrics that is differentiated, if it is not "loss".
_OBJECTIVE = "objective"
_TOP = 5


@dataclasses.dataclass(frozen=True)
class ImageLoss:
    """The cross entropy of every image, with regularisation in training.

    Attributes:
      label_smoothing: the part of the target's probability that is spread over all classes.
      mixup_alpha: train on mixtures of two images, see `mixing_coefficients`; 0 for none.
      cutmix_alpha: train on images with a rectangle of another one, see `cut_rectangles`; 0 for
        none. Where both are set, each image has one or the other with probability 1/2.
    """

    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self, SHARE_BELOW_1, "label_smoothing")
        check_fields(self, NOT_NEGATIVE, "mixup_alpha", "cutmix_alpha")

    def mix(
        self, images: mtf.Tensor, labels: mtf.Tensor, weights: mtf.Tensor, call: Call
    ) -> tuple[mtf.Tensor, Targets]:
        """Returns the input and its targets: in training mixtures, drawn with the call's key."""
        if not call.training or not (self.mixup_alpha or self.cutmix_alpha):
            return images, [(labels, mtf.ones_like(weights))]
        if call.key is None:
            raise InputError("mixup and CutMix need a key in training")
        mixed, coefficients = self._mix(images, weights, call.key)
        return mixed, [(labels, coefficients), (previous_in_batch(labels), 1.0 - coefficients)]

    def _mix(
        self, images: mtf.Tensor, weights: mtf.Tensor, key: mtf.Key
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        """Returns images mixed with the previous ones, and the share of each image, {batch}."""
        results = []
        if self.mixup_alpha:
            coefficients = mixing_coefficients(weights, key.fold_in("mixup"), self.mixup_alpha)
            results.append((mix_with_previous(images, coefficients), coefficients))
        if self.cutmix_alpha:
            rectangles = cut_rectangles(images, weights, key.fold_in("cutmix"), self.cutmix_alpha)
            results.append((paste_previous(images, rectangles), uncut_fraction(rectangles)))
        if len(results) == 1:
            return results[0]
        draws = mtf.random_uniform(images.mesh, weights.shape, key=key.fold_in("mixup or cutmix"))
        is_mixup = mtf.less(draws, 0.5)
        mixed, coefficients = (
            mtf.where(is_mixup, of_mixup, of_cutmix, output_shape=of_mixup.shape)
            for of_mixup, of_cutmix in zip(*results, strict=True)
        )
        return mixed, coefficients

    def __call__(
        self, logits: mtf.Tensor, targets: Targets, weights: mtf.Tensor, call: Call
    ) -> Loss:
        """Returns the sum of the cross entropies of all images, for the targets of `mix`.

        Metrics: "loss", nats per image without label smoothing; "accuracy", the fraction of labels
        whose logit no other class exceeds; with more than five classes also "top_5_accuracy", the
        fraction that at most four exceed. With mixup or CutMix they are means over both labels of
        an image, weighted by their coefficients.
        """
        weight = mtf.reduce_sum(weights)
        smoothed = call.training and bool(self.label_smoothing)
        totals: dict[str, mtf.Tensor] = {}
        for labels, coefficients in targets:
            for name, values in self._per_image(logits, labels, smoothed=smoothed).items():
                total = mtf.reduce_sum(values * (weights * coefficients))
                totals[name] = totals[name] + total if name in totals else total
        objective = totals.pop(_OBJECTIVE, totals["loss"])
        return Loss(objective, weight, {name: Metric(x, weight) for name, x in totals.items()})

    def _per_image(
        self, logits: mtf.Tensor, labels: mtf.Tensor, *, smoothed: bool
    ) -> dict[str, mtf.Tensor]:
        """Returns the metrics of every image {batch} by name; if smoothed, the objective too."""
        classes = logits.shape.get_dim_by_name("classes")
        cross_entropy = mtf.sparse_cross_entropy(
            logits, labels, classes, logsumexp_gradient=smoothed
        )
        metrics = {
            "loss": cross_entropy.loss,
            "accuracy": mtf.to_float(mtf.equal(cross_entropy.margin, 0.0)),
        }
        if classes.size > _TOP:
            rank = _rank(logits, labels, classes)
            metrics["top_5_accuracy"] = mtf.to_float(mtf.less(rank, _TOP))
        if smoothed:
            metrics[_OBJECTIVE] = regularised_cross_entropy(
                cross_entropy, logits, classes, label_smoothing=self.label_smoothing, z_loss=0.0
            )
        return metrics


def metric_names(num_classes: int) -> list[str]:
    """Returns the names of the metrics of `ImageLoss`."""
    return ["loss", "accuracy", *["top_5_accuracy"] * (num_classes > _TOP)]


def _rank(logits: mtf.Tensor, labels: mtf.Tensor, classes: mtf.Dimension) -> mtf.Tensor:
    """Returns the number of classes with a larger logit than the label's; {batch}."""
    of_label = mtf.reduce_sum(logits * mtf.one_hot(labels, classes), reduced_dim=classes)
    larger = mtf.to_float(mtf.greater(logits, of_label))
    return mtf.reduce_sum(larger, reduced_dim=classes)
