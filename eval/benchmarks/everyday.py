"""Everyday things: does the model say what a photo of a single thing shows? Its label is written
beside it."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.benchmarks.naming import ASKED, either
from eval.hub import Row
from eval.question import Question
from vlm.data.records import read_records
from vlm.data.things import regular_plural
from vlm.data.words import tokenize


def rows(folder: Path, split: str) -> Iterator[Row]:
    """The photos of a split of `labels.jsonl`."""
    needed = ("image", "label", "captions", "split")
    for where, entry, _ in read_records(folder / "labels.jsonl", needed):
        if entry["split"] == split:
            yield Row(where, entry, (folder, f"images/{entry['image']}"))


def question(row: dict[str, Any], image: Path) -> list[Question]:
    """Two questions about a photo, which its label answers, and what its captions call it."""
    called = (re.sub("^(an?|the) ", "", plain(caption)) for caption in row["captions"])
    right = tuple(dict.fromkeys((plain(row["label"]), *called)))
    return [
        Question(f"{row['image']}/{place}", image, text, right, {"question": text}, row["image"])
        for place, text in enumerate(ASKED)
    ]


def plain(text: str) -> str:
    """The words alone, joined by single spaces."""
    return tokenize(text.replace("-", " "))


def names(question: Question, answer: str) -> float:
    """1 if the answer has one of the names, in the singular or plural, else 0."""
    words = f" {plain(answer)} "
    forms = {form for name in question.answers for form in (name, regular_plural(name))}
    return float(any(f" {form} " in words for form in forms))


EVERYDAY = Benchmark(
    name="everyday",
    title="Naming everyday things",
    splits=("test", "val"),
    layout="labels.jsonl (image, label, captions, split) and images/",
    rows=rows,
    question=question,
    max_tokens=40,
    metric="thing named",
    each=names,
    more=partial(either, names),
)
