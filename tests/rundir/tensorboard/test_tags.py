"""Tags of metrics, their descriptions, and the custom charts."""

from __future__ import annotations

import re

import pytest

from mtfrun.rundir.tensorboard.metric_charts import scalar_charts
from mtfrun.rundir.tensorboard.metric_tags import description_of, tag_of

LAYER = "decoder_stack/blocks/11/moe_2d"
TAGS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "learning_rate": "learning_rate",
    "perplexity": "loss/perplexity",
    "order_2_entropy": "loss/order_2_entropy",
    "top_5_accuracy": "accuracy/top_5_accuracy",
    "bleu": "decodes/bleu",
    "mean_iou": "accuracy/mean_iou",
    "dice_loss": "loss/dice_loss",
    "dice/disc": "dice/disc",
    "perf/steps_per_sec": "perf/steps_per_sec",
    f"{LAYER}/level_1/load/3": "moe_load/decoder/block_11/moe_2d/level_1/expert_3",
    f"{LAYER}/level_2/dropped": "moe/decoder/block_11/moe_2d/level_2/dropped",
    f"{LAYER}/experts_per_token/4": "moe_load/decoder/block_11/moe_2d/experts_per_token_4",
    "encoder_stack/blocks/0/mlp/activation/rms": "activations/encoder/block_0/mlp/rms",
    "activation/2/0/max": "activations/stage_2/block_0/max",
    "decoder_stack/blocks/0/mine/surprise": "layers/decoder/block_0/mine/surprise",
    "spell/loss": "tasks/spell/loss",
    "spell/exact_match": "tasks/spell/exact_match",
    f"spell/{LAYER}/level_1/entropy": "tasks_moe/spell/decoder/block_11/moe_2d/level_1/entropy",
    "other/loss": "other/loss",
    "my_metric": "my_metric",
}


@pytest.mark.parametrize(("name", "tag"), TAGS.items())
def test_metrics_are_grouped(name: str, tag: str) -> None:
    assert tag_of(name, tasks=["", "spell"]) == tag


@pytest.mark.parametrize("tag", TAGS.values())
def test_every_tag_has_a_title_and_a_description(tag: str) -> None:
    title, text = description_of(tag)
    assert title and "{" not in title + text
    is_user_defined = tag in ("my_metric", "other/loss")
    assert ("not of mtfrun" in text) == is_user_defined


@pytest.mark.parametrize(
    ("tag", "title"),
    [
        ("norm/gradient", "gradient norm"),
        ("norm/gradient/softmax", "gradient norm softmax"),
        ("perf/model_tflop_per_sec", "model TFLOP / s"),
        ("perf/images_per_sec", "images / s"),
        ("loss/order_3_entropy", "order-3 entropy (bits)"),
        ("tasks/spell/exact_match", "spell: exact match"),
        ("tasks_moe/spell/block_1/moe/level_1/dropped", "spell: block_1/moe/level_1: dropped"),
        ("spell/samples", "samples"),
    ],
)
def test_titles(tag: str, title: str) -> None:
    assert description_of(tag).title == title


def _charts(tags: set[str]) -> dict[str, dict[str, set[str]]]:
    """Returns the tags that every chart draws, by category and title."""
    return {
        category.title: {
            chart.title: {tag for tag in tags if re.match(chart.multiline.tag[0], tag)}
            for chart in category.chart
        }
        for category in scalar_charts(tags).category
    }


def test_charts_have_only_curves_that_there_are() -> None:
    tags = {
        "loss",
        "loss/perplexity",
        "learning_rate",
        "norm/update",
        "norm/update/softmax",
        "moe/block_0/moe/level_1/dropped",
        "moe_load/block_0/moe/level_1/expert_0",
        "moe_load/block_0/moe/level_1/expert_1",
        "moe_load/block_1/moe/level_1/expert_0",
    }
    assert _charts(tags) == {
        "Learning": {
            "loss": {"loss"},
            "learning rate": {"learning_rate"},
            "perplexity": {"loss/perplexity"},
        },
        "Mixture of experts": {
            "dropped choices": {"moe/block_0/moe/level_1/dropped"},
            "load of block_0/moe/level_1": {
                f"moe_load/block_0/moe/level_1/expert_{i}" for i in range(2)
            },
            "load of block_1/moe/level_1": {"moe_load/block_1/moe/level_1/expert_0"},
        },
        "Norms": {"update": {"norm/update", "norm/update/softmax"}},
    }


def test_charts_of_an_evaluation_come_before_those_of_layers() -> None:
    tags = {"loss", "decodes/bleu", "tasks/a/loss", "tasks/b/loss", "tasks/a/bleu", "moe/a/dropped"}
    assert _charts(tags) == {
        "Learning": {"loss": {"loss"}},
        "Tasks": {"loss by task": {"tasks/a/loss", "tasks/b/loss"}},
        "Predictions": {"bleu": {"decodes/bleu"}, "bleu by task": {"tasks/a/bleu"}},
    }
