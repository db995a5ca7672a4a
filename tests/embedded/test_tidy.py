"""Captions as one would write them."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data_folders import save_lines, save_photos
from train.embedded.tidy import main, tidy


def test_captions_are_tidied_into_a_file_beside_them(tmp_path: Path) -> None:
    save_photos(tmp_path, "images/a.png", "images/b.png")
    lines = [
        {"image": "a.png", "captions": ["a cat .", "A  cat"], "split": "train"},
        {"image": "b.png", "captions": ["two dogs"]},
    ]
    main([str(save_lines(tmp_path / "captions.jsonl", *lines))])
    written = [json.loads(line) for line in (tmp_path / "tidy.jsonl").read_text().splitlines()]
    assert written == [
        {"image": "a.png", "captions": ["A cat.", "A cat."], "split": "train"},
        {"image": "b.png", "captions": ["Two dogs."]},
    ]


@pytest.mark.parametrize(
    ("caption", "written"),
    [
        ("a dog runs", "A dog runs."),
        ("a  dog\nruns .", "A dog runs."),
        ("a dog runs. .", "A dog runs."),
        ("route 66", "Route 66."),
        ("who runs ?", "Who runs ?"),
        ("it runs!", "It runs!"),
        ("一只狗。", "一只狗。"),
        ('he said "hi."', 'He said "hi."'),
        ("a dog (brown) .", "A dog (brown)."),
        ("...", "..."),
    ],
)
def test_captions_are_tidied(caption: str, written: str) -> None:
    assert tidy(caption) == written


@given(caption=st.text())
def test_what_is_tidy_stays_as_it_is(caption: str) -> None:
    assert tidy(tidy(caption)) == tidy(caption)
