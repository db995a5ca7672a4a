"""The report of samples that are skipped, and how many may be."""

import json
from pathlib import Path

import pytest

from vlm.data.sample import Skipped
from vlm.data.skipped import append_report, check_share, read_report, write_report
from vlm.errors import DataError

THREE = [
    Skipped("a.jsonl, line 3", "blank caption"),
    Skipped("a.jsonl, line 4", "missing image", "é.png"),
    Skipped("b.csv, line 9", "missing image", "line\nbreak"),
]


def test_a_report_lists_each_sample(tmp_path: Path) -> None:
    file = tmp_path / "run" / "report.jsonl"
    write_report(iter(THREE[:2]), file)
    append_report(THREE[2:], file)
    assert read_report(file) == THREE
    assert [json.loads(line) for line in file.read_text().splitlines()] == [
        {"where": "a.jsonl, line 3", "reason": "blank caption", "detail": ""},
        {"where": "a.jsonl, line 4", "reason": "missing image", "detail": "é.png"},
        {"where": "b.csv, line 9", "reason": "missing image", "detail": "line\nbreak"},
    ]
    write_report([], file)
    assert file.read_text() == ""
    assert list(file.parent.iterdir()) == [file]


def test_up_to_a_share_may_be_skipped() -> None:
    file = Path("report.jsonl")
    check_share([], 0, 0.0, file)
    check_share([], 10, 0.0, file)
    check_share(THREE, 300, 0.01, file)
    with pytest.raises(DataError) as error:
        check_share(THREE, 299, 0.01, file)
    assert str(error.value) == (
        "3 of 299 samples cannot be used (2 missing image, 1 blank caption), more than the 0.01 "
        "that allowed_unusable allows: see report.jsonl"
    )
    with pytest.raises(DataError, match=r"^3 of 3 samples cannot be used"):
        check_share(THREE, 3, 0.999, file)
    check_share(THREE, 3, 1.0, file)
