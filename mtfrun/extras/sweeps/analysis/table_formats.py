"""A comparison of rows as a table: for terminals, Markdown, LaTeX, CSV, HTML and JSON."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

from mtfrun.display.formats import number_text, short_number
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors.untrusted import escape
from mtfrun.extras.sweeps.analysis.comparison import Comparison
from mtfrun.extras.sweeps.analysis.statistics import (
    BOOTSTRAP_FROM,
    CONFIDENCE,
    Difference,
    Estimate,
)
from mtfrun.metrics.catalogue import HIGHEST, LOWEST, best_mode
from mtfrun.rundir import RunCost

_MOST_DECIMALS = 8
_ARROWS = {LOWEST: "↓", HIGHEST: "↑"}
_LEAST_Q = 0.001
# The columns of texts.
_TEXTS = ("row", "note")
# What a page has between its title and its command.
_TEXT_OF_PAGE = re.compile(r"#[^\n]*\n\n(.*?)^    mtfrun table ", re.DOTALL | re.MULTILINE)


def estimate_text(estimate: Estimate, *, signed: bool = False) -> str:
    """Returns a mean with its interval, to two digits of the half width.

    >>> estimate_text(Estimate(2.34567, 3, 2.33, 2.36134))
    '2.346 ± 0.016'
    >>> estimate_text(Estimate(0.5, 12, 0.41, 0.53), signed=True)
    '+0.500 [+0.410, +0.530]'
    >>> estimate_text(Estimate(0.5, 3))
    '0.5000, equal'
    >>> estimate_text(Estimate(2.34567, 1)), estimate_text(Estimate())
    ('2.3457', '-')
    """
    mean, low, high = estimate.mean, estimate.low, estimate.high
    if mean is None:
        return "-"
    sign = "+" if signed else ""
    if low is None or high is None:
        text = f"{sign if mean >= 0 else ''}{number_text(mean)}"
        return f"{text}, equal" if estimate.count > 1 else text
    half = (high - low) / 2
    decimals = min(_MOST_DECIMALS, max(0, 1 - math.floor(math.log10(half))))
    text = f"{mean:{sign}.{decimals}f}"
    if estimate.count >= BOOTSTRAP_FROM or estimate.examples:
        return f"{text} [{low:{sign}.{decimals}f}, {high:{sign}.{decimals}f}]"
    return f"{text} ± {half:.{decimals}f}"


def table_columns(
    comparison: Comparison, write: Callable[[str], str] = str, bold: str = "{}"
) -> dict[str, list[str]]:
    """Returns the columns by heading, without those that are empty everywhere.

    Args:
      write: escapes a text.
      bold: the format of a significant difference.
    """
    rows = comparison.rows

    def difference_text(estimate: Difference) -> str:
        text = write(estimate_text(estimate, signed=True))
        return bold.format(text) if estimate.is_significant else text

    def name_of(column: str, metric: str) -> str:
        return column if len(comparison.metrics) == 1 else f"{metric} {column}"

    columns = {"row": [write(row.name) for row in rows]}
    for metric in comparison.metrics:
        measured = [row.metrics[metric] for row in rows]
        heading = f"{metric} {_ARROWS[best_mode(metric)]}"
        columns[heading] = [write(estimate_text(x.mean)) for x in measured]
        if comparison.baselines:
            differences = [x.difference for x in measured]
            columns[name_of("difference", metric)] = list(map(difference_text, differences))
            columns[name_of("q", metric)] = [_q_text(x.q) for x in differences]
            columns[name_of("outputs differ", metric)] = [
                "-" if x.different_outputs is None else f"{x.different_outputs:,}" for x in measured
            ]
    for heading, text in _COSTS.items():
        columns[heading] = [text(row.cost) for row in rows]
    if columns["active"] == columns["parameters"]:
        del columns["active"]
    columns["note"] = [write(row.note) for row in rows]
    return {write(name): x for name, x in columns.items() if not {"", "-"}.issuperset(x)}


def _q_text(q: float | None) -> str:
    return "-" if q is None else "<0.001" if q < _LEAST_Q else f"{q:.3f}"


_COSTS: dict[str, Callable[[RunCost], str]] = {
    "parameters": lambda cost: short_number(cost.parameters),
    "active": lambda cost: short_number(cost.active_parameters),
    "FLOP/token": lambda cost: short_number(cost.flops_per_token),
    "seconds": lambda cost: "-" if cost.seconds is None else f"{cost.seconds:.0f}",
}


def table_notes(comparison: Comparison, *, mark: str = "bold") -> list[str]:
    """Returns sentences about the columns; a significant difference is printed in `mark`."""
    modes = dict.fromkeys(best_mode(metric) for metric in comparison.metrics)
    meaning = {LOWEST: "less is better", HIGHEST: "more is better"}
    notes = [f"{'; '.join(f'{_ARROWS[mode]}: {meaning[mode]}' for mode in modes)}."]
    means = [m.mean for row in comparison.rows for m in row.metrics.values()]
    counts = [x.count for x in means]
    percent = f"{100 * CONFIDENCE:.0f} % confidence intervals"
    if max(counts, default=0) > 1:
        methods = ["by Student's t"] * any(1 < count < BOOTSTRAP_FROM for count in counts)
        methods += ["by the BCa bootstrap, in brackets"] * (max(counts) >= BOOTSTRAP_FROM)
        notes.append(f"Means over seeds with {percent}, {' or '.join(methods)}.")
        if any(x.count > 1 and x.low is None for x in means):
            notes.append("Equal: all seeds have the same value, which gives no interval.")
    if examples := comparison.examples:
        notes.append(
            f"Of one trained model, the {percent}, in brackets, and q are over {examples:,} "
            "examples, by sacrebleu's paired bootstrap: other seeds may differ by more."
        )
    elif max(counts, default=0) == 1:
        notes.append("One seed: no intervals, and no difference is significant.")
    if names := comparison.baselines:
        one = names[0] if len(names) == 1 else "the baseline with the same values of the grid"
        pairs = "seed or example" if comparison.examples else "seed"
        notes.append(f"Differences are to {one}, paired by {pairs}.")
    if tested := sum(estimate.q is not None for estimate in comparison.differences):
        notes.append(
            "q: the p of the difference, corrected by Benjamini and Hochberg for their number, "
            f"{tested}; those with q < {1 - CONFIDENCE:.2g} are {mark}."
        )
    return notes


def terminal_text(comparison: Comparison) -> str:
    columns = table_columns(comparison, bold="{}*")
    for heading, texts in columns.items():
        if any(text.endswith("*") for text in texts):  # as wide as those that are marked
            columns[heading] = [text if text.endswith("*") else f"{text} " for text in texts]
    lines = table_lines(
        list(columns), list(zip(*columns.values(), strict=True)), terminal_columns()
    )
    return "\n".join([*lines, *map(escape, table_notes(comparison, mark="marked by *")), ""])


def markdown_text(comparison: Comparison, command: str = "", page: str = "") -> str:
    """Returns a page: the question, how the table was made, the table, and what its marks mean.

    The text of an older `page`, between its title and the command, is kept.
    """
    columns = table_columns(comparison, _markdown, "**{}**")
    aligned = ["---" if heading in _TEXTS else "---:" for heading in columns]
    rows: list[Iterable[str]] = [columns, aligned, *zip(*columns.values(), strict=True)]
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    notes = "\n".join(map(_markdown, table_notes(comparison)))
    text = _TEXT_OF_PAGE.match(page)
    made_by = f"{text[1] if text else ''}    {escape(command)}\n\n" if command else ""
    seeds = "one seed" if comparison.seeds == 1 else f"{comparison.seeds} seeds"
    origin = [f"Sweep {comparison.name}", seeds]
    origin += [f"{name} {text}" for name, text in comparison.environment.items()]
    return (
        f"# {_markdown(comparison.question)}\n\n{made_by}{_markdown('; '.join(origin))}.\n\n"
        f"{lines}\n{notes}\n"
    )


def latex_text(comparison: Comparison) -> str:
    """Returns a table for each metric, with a caption and a label; it needs the package booktabs.

    The label is tab:NAME, of several metrics tab:NAME-METRIC. Notes are below the table, where
    their lines are broken; notes about rows have numbers.
    """
    tables = []
    for metric in comparison.metrics:
        suffix = f"-{metric}" if len(comparison.metrics) > 1 else ""
        rows = [
            dataclasses.replace(row, metrics={metric: row.metrics[metric]})
            for row in comparison.rows
        ]
        table = dataclasses.replace(
            comparison, name=f"{comparison.name}{suffix}", metrics=[metric], rows=rows
        )
        tables.append(_latex_table(table))
    return "\n".join(tables)


def _latex_table(comparison: Comparison) -> str:
    columns = table_columns(comparison, _latex, r"\textbf{{{}}}")
    row_notes = columns.pop("note", [])
    numbers = enumerate(dict.fromkeys(filter(None, row_notes)), 1)
    marks = {note: rf"\textsuperscript{{{number}}}" for number, note in numbers}
    marked = itertools.zip_longest(columns["row"], row_notes)
    columns["row"] = [f"{name}{marks.get(note, '')}" for name, note in marked]
    alignment = "".join("l" if heading in _TEXTS else "r" for heading in columns)
    rows: list[Iterable[str]] = [columns, *zip(*columns.values(), strict=True)]
    heading, *body = (" & ".join(row) + r" \\" + "\n" for row in rows)
    notes = [f"{mark} {note}" for note, mark in marks.items()]
    notes += map(_latex, table_notes(comparison))
    label = re.sub(r"[^A-Za-z0-9-]+", "-", comparison.name)
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{_latex(comparison.question)}}}\n"
        f"\\label{{tab:{label}}}\n\\footnotesize\n\\setlength{{\\tabcolsep}}{{2pt}}\n"
        f"\\begin{{tabular*}}{{\\linewidth}}{{@{{\\extracolsep{{\\fill}}}}{alignment}@{{}}}}\n"
        f"\\toprule\n{heading}\\midrule\n"
        f"{''.join(body)}\\bottomrule\n\\end{{tabular*}}\n\n\\medskip\n"
        "\\begin{minipage}{\\linewidth}\n\\raggedright\n"
        + "\n\n".join(notes)
        + "\n\\end{minipage}\n\\end{table}\n"
    )


def html_table(comparison: Comparison) -> str:
    """Returns a table element without style; cells of numbers have the class "number"."""
    columns = table_columns(comparison, _html, "<strong>{}</strong>")
    classes = ["" if heading in _TEXTS else ' class="number"' for heading in columns]

    def line(tag: str, texts: Iterable[str]) -> str:
        cells = (f"<{tag}{x}>{text}</{tag}>" for x, text in zip(classes, texts, strict=True))
        return f"<tr>{''.join(cells)}</tr>\n"

    caption = f"<table>\n<caption>{_html(comparison.question)}</caption>\n"
    body = "".join(line("td", row) for row in zip(*columns.values(), strict=True))
    return f"{caption}<thead>\n{line('th', columns)}</thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def csv_text(comparison: Comparison) -> str:
    """Returns all digits; a quote precedes texts that a spreadsheet would take for formulas."""
    rows = [_flatten(row) for row in as_json(comparison)["rows"]]
    records = [{_plain(name): _plain(value) for name, value in row.items()} for row in rows]
    file = io.StringIO()
    names = dict.fromkeys(itertools.chain(*records))
    writer = csv.DictWriter(file, list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return file.getvalue()


WRITERS: dict[str, Callable[[Comparison], str]] = {
    "text": terminal_text,
    "md": markdown_text,
    "latex": latex_text,
    "csv": csv_text,
    "html": html_table,
    "json": lambda table: json.dumps(as_json(table), indent=1, allow_nan=False) + "\n",
}


def as_json(comparison: Comparison) -> dict[str, Any]:
    rows = [
        {
            "row": row.name,
            "baseline": row.baseline,
            "metrics": {
                name: {
                    **dataclasses.asdict(x.mean),
                    "values": {str(seed): value for seed, value in x.values.items()},
                    "difference": {
                        **dataclasses.asdict(x.difference),
                        "is_significant": x.difference.is_significant,
                    },
                    "different_outputs": x.different_outputs,
                }
                for name, x in row.metrics.items()
            },
            **dataclasses.asdict(row.cost),
            "note": row.note,
        }
        for row in comparison.rows
    ]
    return {
        "question": comparison.question,
        "is_lower_better": {name: best_mode(name) == LOWEST for name in comparison.metrics},
        "rows": rows,
        "environment": dict(comparison.environment),
    }


def _flatten(row: dict[str, Any]) -> dict[str, Any]:
    record = {"row": row.pop("row"), "baseline": row.pop("baseline")}
    for metric, values in row.pop("metrics").items():
        for prefix, estimate in ((metric, values), (f"{metric} difference", values["difference"])):
            record[prefix] = estimate["mean"]
            record |= {f"{prefix} {name}": estimate[name] for name in ("low", "high", "count")}
        record |= {f"{metric} difference {name}": values["difference"][name] for name in "pq"}
    by_cause = row.pop("seconds_by_cause")
    return {**record, **row, **{f"seconds of {cause}": secs for cause, secs in by_cause.items()}}


def _plain(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = escape(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]|#~$])", r"\\\1", html.escape(escape(text), quote=False))


def _html(text: str) -> str:
    return html.escape(escape(text))


_LATEX = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # At the start of a line they would belong to the end of the line before.
    "[": "{[}",
    "*": "{*}",
    "±": r"$\pm$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
}


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in escape(text))
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped)  # a minus, not a hyphen
