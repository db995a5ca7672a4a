"""MMBench (Liu et al. 2023): each question is asked with its options rotated, and right if it is
answered right every time."""

import base64
import binascii
import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.benchmarks.choice import LETTERS, choice, is_right, score
from eval.hub import Hub, Row
from eval.question import Question
from vlm.errors import DataError
from vlm.files import read_text

TURN = 1_000_000
"""What MMBench adds to a question's index for each rotation of its options."""

LAYOUT = "MMBench's table, such as mmbench_dev_en_20231003.tsv or MMBench_DEV_EN.tsv"


def rows(folder: Path, split: str) -> Iterator[Row]:
    """The official table, in which the image is a cell, or in VLMEvalKit's copies the index of a
    row with the same one."""
    file = table_in(folder)
    # The limit is for all tables of the process.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    table = list(csv.DictReader(StringIO(read_text(file), newline=""), delimiter="\t"))
    for place, row in enumerate(table, start=2):
        if not re.fullmatch(r"\d+", row.get("index") or ""):
            raise DataError(f"{file}, line {place}: 'index' must be a number")
    rotations = Counter(int(row["index"]) % TURN for row in table)
    images = {row["index"]: row.get("image") or "" for row in table}
    for place, row in enumerate(table, start=2):
        cell = images[row["index"]]
        try:
            image = base64.b64decode(images.get(cell, cell), validate=True)
        except binascii.Error as error:
            raise DataError(f"{file}, line {place}: the image is not base64") from error
        # Some tables have the rotations as rows of their own.
        once = rotations[int(row["index"]) % TURN] == 1
        yield Row(f"{file}, line {place}", {**row, "rotate": once}, image)


def table_in(folder: Path) -> Path:
    """The one table of a folder, of several the one of the dev set; a DataError names others."""
    tables = sorted(folder.glob("*.tsv"))
    if len(tables) > 1:
        tables = [table for table in tables if "dev" in table.name.lower()] or tables
    if len(tables) != 1:
        names = ", ".join(table.name for table in tables) or "no table"
        raise DataError(f"{folder} holds {names}: leave one there, {LAYOUT}")
    return tables[0]


def question(row: dict[str, Any], image: Any) -> list[Question]:
    """A row as it is, and, where it is to be rotated, with its options begun at each of the
    others."""
    options = [row.get(letter) for letter in LETTERS[:4]]
    options = [option for option in options if option and option != "nan"]
    answer = LETTERS.find(row.get("answer") or "-")
    if not row.get("question") or not 0 <= answer < len(options):
        raise ValueError("a question, options and answer are needed")
    hint, number, rotate = row.get("hint"), row["index"], row.get("rotate", False)
    text = f"{hint}\n{row['question']}" if hint and hint != "nan" else row["question"]
    return [
        choice(
            f"{number}_{turn}" if rotate else number,
            image,
            text,
            options[turn:] + options[:turn],
            LETTERS[(answer - turn) % len(options)],
            row.get("category"),
            str(int(number) % TURN),
        )
        for turn in range(len(options) if rotate else 1)
    ]


MMBENCH = Benchmark(
    name="mmbench",
    title="MMBench, circular accuracy",
    splits=("dev",),
    layout=LAYOUT,
    rows=rows,
    question=question,
    each=is_right,
    score_all=score,
    hub=Hub("lmms-lab-encoder/MMBench", {"dev": "dev"}, config="en"),
)
