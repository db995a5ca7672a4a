"""The picture of a run, read back: which colours are on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image

from train.plot import TRAINING, VALIDATION, plot, smoothed
from vlm.errors import DataError


def steps(count: int) -> list[dict[str, Any]]:
    return [{"step": i, "loss": 5 / i, "learning_rate": 1e-3 / i} for i in range(1, count + 1)]


def drawn(folder: Path, rows: list[dict[str, Any]], end: str = "") -> Image.Image:
    text = "".join(f"{json.dumps(row)}\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text + end, encoding="utf-8")
    plot(folder / "metrics.jsonl", folder / "loss.png")
    picture = Image.open(folder / "loss.png")
    assert picture.format == "PNG"
    return picture


def pixels(picture: Image.Image, colour: str) -> int:
    """How many pixels have a colour."""
    values = np.asarray(picture.convert("RGB"), dtype=float) / 255
    return int((np.abs(values - np.array(to_rgb(colour))).max(axis=-1) < 0.02).sum())


def test_validation_is_drawn_where_there_is_any(tmp_path: Path) -> None:
    rows = [*steps(100), {"step": 100, "skipped": "nan"}, {"step": 101, "loss": None}]
    without = drawn(tmp_path, rows)
    assert pixels(without, TRAINING) > 200
    assert pixels(without, VALIDATION) == 0
    validated = [{"step": step, "validation_loss": 2.0} for step in (50, 100)]
    assert pixels(drawn(tmp_path, rows + validated), VALIDATION) > 50


def test_one_step_of_a_run_that_is_still_writing(tmp_path: Path) -> None:
    assert drawn(tmp_path, steps(1), end='{"step": 2, "lo').size == (1080, 600)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no step with a loss: nothing to draw"),
        ('{"step": 1, "validation_loss": 2.0}\n', "has no step with a loss"),
        ('{"step": 1}\nloss 3\n', r"metrics\.jsonl, line 2: not JSON"),
    ],
    ids=["empty", "validation alone", "no rows"],
)
def test_nothing_to_draw(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        plot(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    assert not (tmp_path / "loss.png").exists()


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics\.jsonl has no step with a loss"):
        plot(tmp_path / "metrics.jsonl", tmp_path / "loss.png")
    (tmp_path / "metrics.jsonl").write_text(json.dumps(steps(1)[0]) + "\n", encoding="utf-8")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*loss\.png: (File exists|Not a directory)"):
        plot(tmp_path / "metrics.jsonl", tmp_path / "file" / "loss.png")


numbers = st.floats(-1e6, 1e6)


@given(values=st.lists(numbers, min_size=1, max_size=20), span=st.floats(0.1, 100))
def test_smoothed_values_stay_between_those_so_far(values: list[float], span: float) -> None:
    for number, mean in enumerate(smoothed(values, span), start=1):
        low, high = min(values[:number]), max(values[:number])
        slack = 1e-9 * max(abs(low), abs(high), 1)
        assert low - slack <= mean <= high + slack


def test_smoothed_by_hand() -> None:
    keep = np.exp(-1 / 2)
    expected = [4.0, (4 * keep + 1) / (keep + 1)]
    assert smoothed([4.0, 1.0], span=2) == pytest.approx(expected)
