"""Scores as a table: a column for everyone, a row for each figure."""

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

SHOWN = ("overall", "seconds")
"""Figures of a report that tables have elsewhere, or not at all."""


def table_of(title: str, everyone: Sequence[str], reports: Sequence[dict[str, Any]]) -> Table:
    """Everyone's score, and their scores in each group; the reports are `Scores.to_json`, and what
    there is to say besides."""
    table = Table("", title=escape(title), caption=reports[0].get("note"))
    for who in everyone:
        table.add_column(escape(who), justify="right")
    for part in figures(reports):
        for name, values in part.items():
            table.add_row(escape(name), *values)
        table.add_section()
    return table


def figures(reports: Sequence[dict[str, Any]]) -> list[dict[str, list[str]]]:
    """The rows of a table of scores, everyone's figure by its name: those of all questions, and
    behind them a part for each breakdown."""
    intervals = [report["interval_95"] for report in reports]
    whole = {
        "overall": [
            "undefined" if report["overall"] is None else f"{report['overall']:.2f}"
            for report in reports
        ],
        "95% interval": ["{:.2f} to {:.2f}".format(*two) if two else "" for two in intervals],
    }
    breakdowns = []
    # Of names that several have, the first one's value counts.
    named = {name: value for report in reversed(reports) for name, value in report.items()}
    for name, value in named.items():
        if isinstance(value, dict):
            of_each = [report.get(name, {}) for report in reports]
            label = f"{name.removeprefix('per_')}: "
            breakdowns.append({label + group: in_cells(of_each, group) for group in value})
        elif type(value) is float and name not in SHOWN:
            whole[name] = in_cells(reports, name)
    if "failed" in reports[0]:
        whole["not answered"] = [str(report["failed"]) for report in reports]
    return [whole, *breakdowns]


def in_cells(of_each: Sequence[dict[str, Any]], name: str) -> list[str]:
    """Everyone's figure of a name; some have none, such as the consistency of no right answer."""
    return [f"{one[name]:.2f}" if name in one else "" for one in of_each]
