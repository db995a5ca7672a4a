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
from vlm.data.records import refuse
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
    """Prints how another run differs, as tables that 80 columns hold, the second of the first
    questions that changed, or as JSON."""
    if len(others) != 1:
        raise ConfigError("--compare needs two folders: vlm eval --compare FIRST SECOND")
    first, second = Path(folder), Path(others[0])
    result = compare(first, second)
    if json:
        print(json_format.dumps(result, default=vars))
        return
    console = Console(highlight=False)
    console.print(f"first:  {first}\nsecond: {second}", markup=False, soft_wrap=True)
    console.print(table_of(result))
    changed = result["changed"]
    if changed:
        console.print()
        console.print(changed_table(first, second, changed[:SHOWN]))
    if len(changed) > SHOWN:
        console.print(f"and {len(changed) - SHOWN:,} more that changed")


def table_of(result: dict[str, Any]) -> Table:
    """The differences; only the names are folded."""
    table = Table("", box=None, padding=(0, 1, 0, 0))
    table.columns[0].overflow = "fold"
    for column in ("asked", "first", "second", "change", "95% interval", "won", "lost", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = {"overall": result["overall"]}
    for name, groups in result.items():
        if name.startswith("per_"):
            rows |= {f"{name[4:]}: {label}": each for label, each in groups.items()}
    for name, each in rows.items():
        low, high = each.interval
        table.add_row(
            escape(name),
            f"{each.questions:,}",
            f"{each.first:.1f}",
            f"{each.second:.1f}",
            f"{each.second - each.first:+.1f}",
            f"{low:+.1f} to {high:+.1f}",
            f"{each.gained:,}",
            f"{each.lost:,}",
            f"{each.p:.2g}",
        )
    return table


def changed_table(first: Path, second: Path, changed: list[str]) -> Table:
    """Questions that one of two runs has right, with the answers of both."""
    files = [folder / "predictions.jsonl" for folder in (first, second)]
    before, after = map(read_predictions, files)
    for file, found in zip(files, (before, after), strict=True):
        refuse(file, [number for number in changed if number not in found], "no answer")
    scores = read_scores(second)
    table = Table("changed", "question", "first", "second", box=None, padding=(0, 1, 0, 0))
    for number in changed:
        asked = before[number].question.split("\n")[0]
        said = (repr(one[number].prediction) for one in (before, after))
        won = "won" if scores[number].score >= 0.5 else "lost"
        table.add_row(won, *map(escape, (f"{number}  {asked}", *said)))
    return table
