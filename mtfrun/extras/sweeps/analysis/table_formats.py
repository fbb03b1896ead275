"""A comparison of rows as a table: for terminals, Markdown, LaTeX, CSV, HTML and JSON."""

from __future__ import annotations

import csv
import dataclasses
import html
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mtfrun.display.formats import number_text, short_number
from mtfrun.display.table import table_lines, terminal_columns
from mtfrun.errors.untrusted import escape
from mtfrun.extras.sweeps.analysis.comparison import Comparison
from mtfrun.extras.sweeps.analysis.statistics import BOOTSTRAP_FROM, CONFIDENCE, Estimate
from mtfrun.metrics.catalogue import HIGHEST, LOWEST, best_mode
from mtfrun.rundir import RunCost

_MOST_DECIMALS = 8
_ARROWS = {LOWEST: "↓", HIGHEST: "↑"}


class Cell(NamedTuple):
    """`is_number`: aligned to the right. `is_bold`: a significant difference."""

    text: str
    is_number: bool = True
    is_bold: bool = False


def estimate_text(estimate: Estimate | None, *, signed: bool = False) -> str:
    """Returns a mean with its interval, to two digits of the half width.

    >>> estimate_text(Estimate(2.34567, 3, 2.33, 2.36134))
    '2.346 ± 0.016'
    >>> estimate_text(Estimate(0.5, 12, 0.41, 0.53), signed=True)
    '+0.500 [+0.410, +0.530]'
    >>> estimate_text(Estimate(2.34567, 1)), estimate_text(None)
    ('2.3457', '-')
    """
    if estimate is None:
        return "-"
    mean, half = estimate.mean, estimate.half_width
    sign = "+" if signed else ""
    if half is None or half == 0:
        text = f"{'+' if signed and mean >= 0 else ''}{number_text(mean)}"
        return text if half is None else f"{text} ± 0"
    decimals = min(_MOST_DECIMALS, max(0, 1 - math.floor(math.log10(half))))
    text = f"{mean:{sign}.{decimals}f}"
    if estimate.count >= BOOTSTRAP_FROM:
        return f"{text} [{estimate.low:{sign}.{decimals}f}, {estimate.high:{sign}.{decimals}f}]"
    return f"{text} ± {half:.{decimals}f}"


def table_cells(comparison: Comparison) -> tuple[list[str], list[list[Cell]]]:
    """Returns the headings and the rows, without columns that are empty everywhere."""
    rows = comparison.rows
    columns: dict[str, list[Cell]] = {"row": [Cell(row.name, is_number=False) for row in rows]}
    for metric in comparison.metrics:
        measured = [row.metrics[metric] for row in rows]
        arrow = _ARROWS[best_mode(metric)]
        columns[f"{metric} {arrow}"] = [Cell(estimate_text(x.mean)) for x in measured]
        if comparison.baselines:
            name = "difference" if len(comparison.metrics) == 1 else f"{metric} difference"
            columns[name] = [
                Cell(
                    estimate_text(x.difference, signed=True),
                    is_bold=x.difference is not None and x.difference.excludes_zero,
                )
                for x in measured
            ]
    for name, text in _COSTS.items():
        columns[name] = [Cell(text(row.cost)) for row in rows]
    if columns["active"] == columns["parameters"]:
        del columns["active"]
    columns["note"] = [Cell(row.note, is_number=False) for row in rows]
    columns = {name: x for name, x in columns.items() if any(cell.text not in "-" for cell in x)}
    return list(columns), [list(cells) for cells in zip(*columns.values(), strict=True)]


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
    counts = [m.mean.count for row in comparison.rows for m in row.metrics.values() if m.mean]
    if max(counts, default=0) == 1:
        notes.append("One seed: no intervals, and no difference is significant.")
    elif counts:
        methods = ["by Student's t"] * any(1 < count < BOOTSTRAP_FROM for count in counts)
        methods += ["by the BCa bootstrap, in brackets"] * (max(counts) >= BOOTSTRAP_FROM)
        percent = f"{100 * CONFIDENCE:.0f} % confidence intervals"
        notes.append(f"Means over seeds with {percent}, {' or '.join(methods)}.")
    if names := comparison.baselines:
        one = names[0] if len(names) == 1 else "the baseline with the same values of the grid"
        notes.append(f"Differences are to {one}, paired by seed.")
    if tested := sum(estimate.count > 1 for estimate in comparison.differences):
        notes.append(
            f"Those whose interval excludes 0 are {mark}: without any effect "
            f"{(1 - CONFIDENCE) * tested:.1f} of {tested} would be, on average."
        )
    return notes


class _Table(NamedTuple):
    """The cells of a comparison as a format writes them."""

    headings: list[str]
    rows: list[list[str]]
    are_numbers: list[bool]  # by column

    @classmethod
    def of(cls, comparison: Comparison, write: Callable[[str], str], bold: str) -> _Table:
        headings, rows = table_cells(comparison)
        texts = [
            [bold.format(write(cell.text)) if cell.is_bold else write(cell.text) for cell in row]
            for row in rows
        ]
        return cls(list(map(write, headings)), texts, [cell.is_number for cell in rows[0]])


def terminal_text(comparison: Comparison) -> str:
    headings, rows = table_cells(comparison)
    has_bold = [any(cell.is_bold for cell in column) for column in zip(*rows, strict=True)]
    texts = [
        [
            cell.text + ("*" if cell.is_bold else " " * x)
            for cell, x in zip(row, has_bold, strict=True)
        ]
        for row in rows
    ]
    lines = table_lines(headings, texts, terminal_columns())
    return "\n".join([*lines, *map(escape, table_notes(comparison, mark="marked by *")), ""])


def markdown_text(comparison: Comparison, command: str = "") -> str:
    """Returns a page: the question, how the table was made, the table, and what its marks mean."""
    table = _Table.of(comparison, _markdown, "**{}**")
    aligned = ["---:" if is_number else "---" for is_number in table.are_numbers]
    lines = [f"| {' | '.join(row)} |\n" for row in (table.headings, aligned, *table.rows)]
    notes = "\n".join(map(_markdown, table_notes(comparison)))
    made_by = f"    {escape(command)}\n\n" if command else ""
    seeds = "one seed" if comparison.seeds == 1 else f"{comparison.seeds} seeds"
    origin = [f"Sweep {comparison.name}", seeds]
    origin += [f"{name} {text}" for name, text in comparison.environment.items()]
    return (
        f"# {_markdown(comparison.question)}\n\n{made_by}{_markdown('; '.join(origin))}.\n\n"
        f"{''.join(lines)}\n{notes}\n"
    )


def latex_text(comparison: Comparison) -> str:
    """Returns a table for each metric, with a caption and a label; it needs the package booktabs.

    The label is tab:NAME, of several metrics tab:NAME-METRIC. Notes are below the table, where
    their lines are broken; notes about rows have numbers.
    """
    tables = []
    for metric in comparison.metrics:
        rows = [
            dataclasses.replace(row, metrics={metric: row.metrics[metric]})
            for row in comparison.rows
        ]
        table = dataclasses.replace(comparison, metrics=[metric], rows=rows)
        suffix = f"-{metric}" if len(comparison.metrics) > 1 else ""
        tables.append(_latex_table(table, f"{comparison.name}{suffix}"))
    return "\n".join(tables)


def _latex_table(comparison: Comparison, name: str) -> str:
    numbers: dict[str, int] = {}
    for row in comparison.rows:
        if row.note:
            numbers.setdefault(row.note, len(numbers) + 1)
    marks = {note: rf"\textsuperscript{{{number}}}" for note, number in numbers.items()}
    bare = [dataclasses.replace(row, note="") for row in comparison.rows]
    table = _Table.of(dataclasses.replace(comparison, rows=bare), _latex, r"\textbf{{{}}}")
    columns = "".join("r" if is_number else "l" for is_number in table.are_numbers)
    for row, cells in zip(comparison.rows, table.rows, strict=True):
        cells[0] += marks.get(row.note, "")
    heading, *body = (" & ".join(row) + r" \\" + "\n" for row in (table.headings, *table.rows))
    notes = [f"{mark} {_latex(note)}" for note, mark in marks.items()]
    notes += map(_latex, table_notes(comparison))
    label = re.sub(r"[^A-Za-z0-9-]+", "-", name)
    return (
        f"\\begin{{table}}\n\\centering\n\\caption{{{_latex(comparison.question)}}}\n"
        f"\\label{{tab:{label}}}\n\\footnotesize\n\\setlength{{\\tabcolsep}}{{2pt}}\n"
        f"\\begin{{tabular*}}{{\\linewidth}}{{@{{\\extracolsep{{\\fill}}}}{columns}@{{}}}}\n\\toprule\n{heading}\\midrule\n"
        f"{''.join(body)}\\bottomrule\n\\end{{tabular*}}\n\n\\medskip\n"
        "\\begin{minipage}{\\linewidth}\n\\raggedright\n"
        + "\n\n".join(notes)
        + "\n\\end{minipage}\n\\end{table}\n"
    )


def html_table(comparison: Comparison) -> str:
    """Returns a table element without style; cells of numbers have the class "number"."""
    table = _Table.of(comparison, _html, "<strong>{}</strong>")
    classes = [' class="number"' * is_number for is_number in table.are_numbers]

    def line(tag: str, texts: Sequence[str]) -> str:
        cells = (f"<{tag}{x}>{text}</{tag}>" for x, text in zip(classes, texts, strict=True))
        return f"<tr>{''.join(cells)}</tr>\n"

    caption = f"<table>\n<caption>{_html(comparison.question)}</caption>\n"
    body = "".join(line("td", row) for row in table.rows)
    head = line("th", table.headings)
    return f"{caption}<thead>\n{head}</thead>\n<tbody>\n{body}</tbody>\n</table>\n"


def csv_text(comparison: Comparison) -> str:
    """Has all digits. A text that a spreadsheet would take for a formula begins with a quote."""
    records = list(map(_flatten, as_json(comparison)["rows"]))
    file = io.StringIO()
    names = list(dict.fromkeys(name for record in records for name in record))
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(_plain, names))
    for record in records:
        writer.writerow([_plain(record.get(name)) for name in names])
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
    rows = []
    for row in comparison.rows:
        metrics = {
            name: {
                **_as_json(measured.mean),
                "values": {str(seed): value for seed, value in measured.values.items()},
                "difference": {
                    **_as_json(measured.difference),
                    "is_significant": bool(
                        measured.difference and measured.difference.excludes_zero
                    ),
                },
            }
            for name, measured in row.metrics.items()
        }
        rows.append(
            {
                "row": row.name,
                "baseline": row.baseline,
                "metrics": metrics,
                **dataclasses.asdict(row.cost),
                "note": row.note,
            }
        )
    return {
        "question": comparison.question,
        "is_lower_better": {name: best_mode(name) == LOWEST for name in comparison.metrics},
        "rows": rows,
        "environment": dict(comparison.environment),
    }


def _as_json(estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        return {"mean": None, "low": None, "high": None, "count": 0}
    return dataclasses.asdict(estimate)


def _flatten(row: Mapping[str, Any]) -> dict[str, Any]:
    record: dict[str, Any] = {"row": row["row"], "baseline": row["baseline"]}
    for metric, values in row["metrics"].items():
        for prefix, estimate in ((metric, values), (f"{metric} difference", values["difference"])):
            record[prefix] = estimate["mean"]
            record |= {f"{prefix} {name}": estimate[name] for name in ("low", "high", "count")}
    costs = [field.name for field in dataclasses.fields(RunCost)]
    record |= {name: row[name] for name in [*costs, "note"]}
    by_cause = record.pop("seconds_by_cause")
    return {**record, **{f"seconds of {cause}": secs for cause, secs in by_cause.items()}}


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
