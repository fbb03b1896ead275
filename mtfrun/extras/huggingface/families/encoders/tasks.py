"""The tasks of encoders, by the model class in config.json, and their heads."""

from __future__ import annotations

import dataclasses

from mtfrun.extras.huggingface.family import names_of_labels
from mtfrun.extras.huggingface.tables.settings import Settings

# The ends of classes of models: "BertForMaskedLM".
MASKED, TEXTS, WORDS = "MaskedLM", "SequenceClassification", "TokenClassification"
SPANS = "QuestionAnswering"
DATA = {
    MASKED: "data/masked_lm.gin",
    TEXTS: "extras/text_tasks/data/text_classification.gin",
    WORDS: "extras/text_tasks/data/token_classification.gin",
    SPANS: "extras/text_tasks/data/spans.gin",
}


@dataclasses.dataclass(frozen=True)
class Head:
    """Names of the head's modules, and of its dropout setting.

    The bias is the softmax's unless `other_bias` is set.
    """

    softmax: str
    dense: str | None = None
    norm: str | None = None
    other_bias: str | None = None
    rate: str = "classifier_dropout"

    @property
    def bias(self) -> str:
        return self.other_bias or f"{self.softmax}.bias"


def is_headless(settings: Settings) -> bool:
    """Whether a model has no head, as `BertModel`; judged by its tensors if unnamed."""
    names = settings.values.get("architectures")
    if not names:
        return any(name.startswith("embeddings.") for name in settings.tensors)
    return any(str(name).endswith("Model") for name in names)


def task_of(settings: Settings) -> str:
    names = list(map(str, settings.values.get("architectures") or []))
    tasks = (SPANS, WORDS, TEXTS)
    return next((t for t in tasks if any(x.endswith(f"For{t}") for x in names)), MASKED)


def is_regressor(settings: Settings) -> bool:
    """As transformers decides: one label is a number."""
    is_number = settings.values.get("problem_type") in (None, "regression")
    return task_of(settings) == TEXTS and is_number and len(names_of_labels(settings)) == 1


def has_label_sets(settings: Settings) -> bool:
    is_set = settings.values.get("problem_type") == "multi_label_classification"
    return task_of(settings) == TEXTS and is_set
