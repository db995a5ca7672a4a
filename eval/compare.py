"""`vlm eval --compare`: two runs on the same questions, their paired differences."""

import json as json_format
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.metrics.scores import interval
from eval.predictions import read_predictions
from eval.report import read_scores
from vlm.errors import ConfigError, DataError

SHOWN = 20
"""Changed questions shown."""


@dataclass(frozen=True)
class Difference:
    """How the second run differs from the first on some questions.

    Attributes:
        first: mean score of the first run, in percent.
        interval: of the difference, second less first, 95%.
        gained: questions that only the second has right; `lost`, only the first.
        p: how likely so uneven a split of both would be, were the runs equally good.
    """

    questions: int
    first: float
    second: float
    interval: tuple[float, float]
    gained: int
    lost: int
    p: float


def difference(first: list[float], second: list[float]) -> Difference:
    """Compares the scores (0 to 1) of the same questions; a half and more is right."""
    one, two = 100 * np.array(first), 100 * np.array(second)
    gained = int(((one < 50) & (two >= 50)).sum())
    lost = int(((one >= 50) & (two < 50)).sum())
    p = mcnemar(gained, lost)
    means = float(one.mean()), float(two.mean())
    return Difference(len(one), *means, interval(two - one), gained, lost, p)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p-value (McNemar 1947): of as many fair coins, how often at most the
    fewer, or at least the more, fall on one side."""
    changed = gained + lost
    logs = [
        math.lgamma(changed + 1) - math.lgamma(k + 1) - math.lgamma(changed - k + 1)
        for k in range(min(gained, lost) + 1)
    ]
    return min(1.0, 2 * sum(math.exp(log - changed * math.log(2)) for log in logs))


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Two runs' folders -> `overall`, each breakdown by name, and `changed`, the ids of the
    questions that are right in one of them only; a DataError for runs on different questions."""
    one, two = read_scores(first), read_scores(second)
    for here, there, folder in ((one, two, second), (two, one, first)):
        missing = [number for number in here if number not in there]
        if missing:
            raise DataError(
                f"{folder}: {len(missing):,} questions of the other run are not in it, the first "
                f"is {missing[0]}: only runs on the same questions can be compared"
            )

    def between(numbers: list[str]) -> Difference:
        return difference([one[n].score for n in numbers], [two[n].score for n in numbers])

    result: dict[str, Any] = {"overall": between(list(one))}
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for number, score in one.items():
        for name, label in score.labels.items():
            if label:
                groups[name, label].append(number)
    for name, label in sorted(groups):
        result.setdefault(f"per_{name}", {})[label] = between(groups[name, label])
    result["changed"] = [n for n in one if (one[n].score >= 0.5) != (two[n].score >= 0.5)]
    return result


def show_comparison(folder: str, others: list[str], json: bool) -> None:
    """Prints how another run differs, as tables with the first questions that changed or as
    JSON."""
    if len(others) != 1:
        raise ConfigError("--compare needs two folders: vlm eval --compare FIRST SECOND")
    first, second = Path(folder), Path(others[0])
    result = compare(first, second)
    if json:
        print(json_format.dumps(result, default=vars))
        return
    console = Console(highlight=False)
    console.print(table_of(f"{first} -> {second}", result))
    before = read_predictions(first / "predictions.jsonl")
    after = read_predictions(second / "predictions.jsonl")
    for number in result["changed"][:SHOWN]:
        asked = before[number].question.split("\n")[0]
        said = f"{before[number].prediction!r} -> {after[number].prediction!r}"
        console.print(escape(f"{number}  {asked}  {said}"))
    more = len(result["changed"]) - SHOWN
    if more > 0:
        console.print(f"and {more:,} more that changed")


def table_of(title: str, result: dict[str, Any]) -> Table:
    table = Table("", title=escape(title))
    for column in ("questions", "first", "second", "difference", "gained", "lost", "p"):
        table.add_column(column, justify="right")
    rows = {"overall": result["overall"]}
    for name, groups in result.items():
        if name.startswith("per_"):
            rows |= {f"{name[4:]}: {label}": each for label, each in groups.items()}
    for name, each in rows.items():
        low, high = each.interval
        table.add_row(
            escape(name),
            f"{each.questions:,}",
            f"{each.first:.2f}",
            f"{each.second:.2f}",
            f"{each.second - each.first:+.2f}  ({low:+.2f} to {high:+.2f})",
            f"{each.gained:,}",
            f"{each.lost:,}",
            f"{each.p:.2g}",
        )
    return table
