"""Metrics of tasks; the catalogue, tags and charts of every metric."""

from typing import TYPE_CHECKING

from mtfrun.configuration.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from mtfrun.metrics.task_metrics import BinaryF1 as BinaryF1
    from mtfrun.metrics.task_metrics import Rouge as Rouge
    from mtfrun.metrics.task_metrics import bleu as bleu
    from mtfrun.metrics.task_metrics import chrf as chrf
    from mtfrun.metrics.task_metrics import entity_f1 as entity_f1
    from mtfrun.metrics.task_metrics import exact_match as exact_match
    from mtfrun.metrics.task_metrics import matthews_correlation as matthews_correlation
    from mtfrun.metrics.task_metrics import mean_f1 as mean_f1
    from mtfrun.metrics.task_metrics import pearson_correlation as pearson_correlation
    from mtfrun.metrics.task_metrics import spearman_correlation as spearman_correlation
    from mtfrun.metrics.task_metrics import squad as squad
    from mtfrun.metrics.task_metrics import text_metrics as text_metrics
    from mtfrun.metrics.task_metrics import token_accuracy as token_accuracy
    from mtfrun.metrics.task_metrics import trivia_qa as trivia_qa

__all__, __getattr__ = lazy_exports(__file__)
