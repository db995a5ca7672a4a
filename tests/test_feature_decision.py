"""What a vision-feature cache costs and saves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.features import FillReport, decide, together

GB = 10**9


def auto(**changed: object) -> tuple[bool, str]:
    settings = {
        "mode": "auto",
        "missing": 6_000,
        "photo_bytes": 125_000,
        "free_bytes": 10 * GB,
        "max_bytes": 5 * GB,
        "passes": 18_000,
    }
    return decide(**(settings | changed))


@pytest.mark.parametrize(
    ("changed", "cached", "line"),
    [
        ({}, True, "are cached: costs 0.75 GB, saves 12,000 of 18,000 passes of the tower"),
        (
            {"rate": 20.0},
            True,
            "are cached: costs 0.75 GB and 5 min, saves 12,000 of 18,000 passes of the tower, "
            "about 10 min",
        ),
        (
            {"passes": 9_000},
            False,
            "no vision features are cached: the run is short, a cache would save 3,000 of 9,000 "
            "passes of the tower",
        ),
        # A few broken photos are always missing.
        ({"passes": 6_000, "missing": 60}, True, "saves 5,940 of 6,000 passes"),
        ({"max_bytes": GB // 2}, False, "they need 0.75 GB, the cache may take 0.50 GB more"),
        ({"free_bytes": 4 * GB // 5}, False, "they need 0.75 GB, the disk has 0.80 GB free"),
        # What is there costs nothing, whatever the room.
        (
            {"missing": 0, "passes": 6_000, "free_bytes": 0, "max_bytes": 0},
            True,
            "costs 0.0 MB, saves 6,000 of 6,000",
        ),
        # Fewer steps than photos.
        ({"mode": "on", "passes": 2}, True, "saves 0 of 2 passes"),
        ({"mode": "on", "passes": 6_000, "max_bytes": 0}, True, "are cached: costs 0.75 GB"),
    ],
)
def test_the_decision_and_its_reason(changed: dict, cached: bool, line: str) -> None:
    decided, reason = auto(**changed)
    assert decided is cached
    assert line in reason


@given(
    missing=st.integers(1, 10**6),
    free=st.integers(0, 10**12),
    most=st.integers(0, 10**12),
    epochs=st.floats(0.1, 100),
)
def test_auto_never_takes_more_than_there_is(
    missing: int, free: int, most: int, epochs: float
) -> None:
    cached, _ = auto(missing=missing, free_bytes=free, max_bytes=most, passes=missing * epochs)
    needed = missing * 125_000
    assert cached == (epochs >= 2 and needed <= most and needed <= 0.9 * free)


def test_the_line_of_a_report() -> None:
    report = FillReport(encoded=1_200, found=4_890, seconds=33.3, bytes=730_000_000)
    assert str(report) == (
        "features: 6,090 photos, 0.73 GB, 1,200 encoded in 33 s (36 photos/s), 4,890 found"
    )
    report = FillReport(found=2, left_out=1_000, broken=1, bytes=10**7)
    assert str(report) == (
        "features: 2 photos, 10.0 MB, 2 found, 1,000 left out for want of room, 1 broken"
    )


def test_reports_of_ranks_add_up() -> None:
    ranks = [
        FillReport(3, 1, 0, 1, seconds=2.0, bytes=40),
        FillReport(2, 2, 1, 1, seconds=4.0, bytes=40),
    ]
    assert together(ranks) == FillReport(5, 3, 1, 2, seconds=4.0, bytes=80)
