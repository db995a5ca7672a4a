"""Two runs side by side: differences, McNemar's test, and which questions changed."""

import json
import re
from dataclasses import asdict
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from eval.compare import Difference, compare, difference, mcnemar, table_of
from eval.predictions import Prediction
from eval.report import QuestionScore
from vlm.cli import main
from vlm.files import write_rows


def write_run(folder: Path, scores: dict[str, float]) -> Path:
    worth = [QuestionScore(number, score, {"kind": number[0]}) for number, score in scores.items()]
    write_rows(folder / "scores.jsonl", map(asdict, worth))
    predictions = [
        Prediction(number, None, "What?\nIn a word.", f"answer {score}", ("a",))
        for number, score in scores.items()
    ]
    write_rows(folder / "predictions.jsonl", map(asdict, predictions))
    return folder


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1), (1, 0, 1), (5, 0, 2 / 32), (0, 5, 2 / 32), (3, 1, 10 / 16), (4, 4, 1)],
)
def test_mcnemar_by_hand(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)


def test_mcnemar_of_many() -> None:
    assert mcnemar(60_000, 59_000) == pytest.approx(0.00377, rel=0.01)
    assert mcnemar(50_000, 0) == 0


def test_a_difference_is_paired() -> None:
    found = difference([1, 1, 0, 0.3] * 50, [1, 1, 0, 0.9] * 50)
    assert (found.first, found.second) == (pytest.approx(57.5), pytest.approx(72.5))
    assert (found.gained, found.lost, found.questions) == (50, 0, 200)
    low, high = found.interval
    # The questions that do not differ add no doubt: 0.6 for a fourth of them.
    assert 10 < low < 15 < high < 20
    assert found.p < 1e-10


def test_runs_are_compared_by_kind_and_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "first", {"a1": 1, "a2": 0, "b1": 0})
    second = write_run(tmp_path / "second", {"b1": 0.9, "a1": 1, "a2": 0})
    result = compare(first, second)
    assert result["changed"] == ["b1"]
    assert result["per_kind"]["a"].second == result["per_kind"]["a"].first == 50
    assert result["per_kind"]["b"].second - result["per_kind"]["b"].first == pytest.approx(90)
    assert main(["eval", "--compare", str(first), str(second)]) == 0
    shown = capsys.readouterr().out
    assert f"first:  {first}\nsecond: {second}\n" in shown
    assert re.search(
        r"^kind: b +1 +0\.0 +90\.0 +\+90\.0 \+90\.0 to \+90\.0 +1 +0 +1 *$", shown, re.M
    )
    assert re.search(r"^won +b1  What\? +'answer 0' +'answer 0\.9' *$", shown, re.M)
    answers = second / "predictions.jsonl"
    answers.rename(second / "aside")
    assert main(["eval", "--compare", str(first), str(second)]) == 1
    assert f"{answers}: 1 questions with no answer: b1" in capsys.readouterr().err
    assert main(["eval", "--compare", str(first), str(second), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["overall"]["gained"] == 1


def test_eighty_columns_hold_a_comparison(tmp_path: Path) -> None:
    each = Difference(123_456, 100, 0, (-100, -99.95), 10_000, 99_999, 1.23e-10)
    label = "[attribute recognition of a very long name]"
    file = StringIO()
    Console(width=80, file=file).print(table_of({"overall": each, "per_category": {label: each}}))
    lines = file.getvalue().splitlines()
    row = "123,456 100.0    0.0 -100.0 -100.0 to -100.0 10,000 99,999 1.2e-10"
    # Numbers stay whole, names are folded, and nothing is cut off.
    assert sum(row in line for line in lines) == 2
    assert label.replace(" ", "") in "".join(line[:12] for line in lines).replace(" ", "")


def test_runs_on_other_questions_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_run(tmp_path / "first", {"a1": 1, "a2": 0})
    second = write_run(tmp_path / "second", {"a1": 1})
    for pair in ((first, second), (second, first)):
        assert main(["eval", "--compare", *map(str, pair)]) == 1
        told = capsys.readouterr().err
        assert f"{second}: 1 questions of the other run are not in it, the first is a2" in told
    assert main(["eval", "--compare", str(first), str(tmp_path / "none")]) == 1
    assert "No such file" in capsys.readouterr().err
