"""Benchmarks of options with letters: MMBench (Liu et al. 2023), circular; SEED-Bench's images (Li
et al. 2023); AI2D (Kembhavi et al. 2016)."""

import base64
import binascii
import csv
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub
from eval.metrics.choice import ChoiceQuestion, read_choice, score_choice
from eval.metrics.scores import Scores
from eval.official import entries, read_json
from eval.prompts import with_options
from eval.question import Question, RowImage
from vlm.errors import DataError

LETTERS = "ABCDEFGHIJ"

TURN = 1_000_000
"""What MMBench adds to a question's index for each rotation of its options."""


def choice(
    number: str,
    image: Any,
    text: str,
    options: dict[str, str],
    answer: str,
    category: str | None = None,
    group: str | None = None,
) -> Question:
    """A question with options."""
    labels = {"category": category} if category else {}
    scored_as = ChoiceQuestion(options, answer, category or None, group)
    return Question(number, image, with_options(text, options), (answer,), labels, scored_as)


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """Accuracy by category, circular where questions have a group."""
    return score_choice([question.scored_as for question in questions], predictions)


def mmbench(folder: Path, split: str) -> Iterator[Question]:
    """Every rotation of every question of the official table."""
    file = folder / "mmbench_dev_20230712.tsv"
    # A cell is an image; the limit is for all tables of the process.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    with open(file, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    for place, row in enumerate(rows, start=2):
        if not re.fullmatch(r"\d+", row.get("index") or ""):
            raise DataError(f"{file}, line {place}: 'index' must be a number")
    rotations = Counter(int(row["index"]) % TURN for row in rows)
    for place, row in enumerate(rows, start=2):
        try:
            image = base64.b64decode(row.get("image") or "", validate=True)
            # The official table has the rotations as rows of their own.
            once = rotations[int(row["index"]) % TURN] == 1
            yield from mmbench_questions(row, image, rotate=once)
        except binascii.Error as error:
            raise DataError(f"{file}, line {place}: the image is not base64") from error
        except ValueError as error:
            raise DataError(f"{file}, line {place}: {error}") from error


def mmbench_questions(row: dict[str, Any], image: Any, rotate: bool) -> Iterator[Question]:
    """A row as it is, and, where it is to be rotated, with its options begun at each of the others.

    Raises:
        ValueError: no question, or no answer among the options.
    """
    options = [row.get(letter) for letter in LETTERS[:4]]
    options = [option for option in options if option and option != "nan"]
    answer = LETTERS.find(row.get("answer") or "-")
    if not row.get("question") or not 0 <= answer < len(options):
        raise ValueError("a question, options and answer are needed")
    hint = row.get("hint")
    text = f"{hint}\n{row['question']}" if hint and hint != "nan" else row["question"]
    for turn in range(len(options) if rotate else 1):
        turned = options[turn:] + options[:turn]
        yield choice(
            f"{row['index']}_{turn}" if rotate else str(row["index"]),
            image,
            text,
            dict(zip(LETTERS, turned, strict=False)),
            LETTERS[(answer - turn) % len(options)],
            row.get("category") or "",
            str(int(row["index"]) % TURN),
        )


def mmbench_row(row: dict[str, Any], image: RowImage) -> list[Question]:
    """A row of MMBench on the hub, which has the rotations as rows of their own."""
    return list(mmbench_questions(row, image, rotate=False))


def seed(folder: Path, split: str) -> Iterator[Question]:
    """The questions about images, by type."""
    file = folder / "SEED-Bench.json"
    whole = read_json(file)
    names = whole.get("question_type", {}) if isinstance(whole, dict) else {}
    types = {number: name for name, number in names.items()}
    for place, entry in enumerate(entries(file, "questions"), start=1):
        if entry.get("data_type") != "image":
            continue
        keys = ("question_id", "data_id", "question", "answer", *(f"choice_{c}" for c in "abcd"))
        values = [entry.get(key) for key in keys]
        if not all(isinstance(value, str) for value in values) or ".." in values[1]:
            raise DataError(f"{file}: entry {place} needs texts {', '.join(keys)}")
        number, image, text, answer, *options = values
        yield choice(
            number,
            folder / "SEED-Bench-image" / image,
            text,
            dict(zip(LETTERS, options, strict=False)),
            answer,
            str(types.get(entry.get("question_type_id"), "")),
        )


def ai2d(folder: Path, split: str) -> Iterator[Question]:
    """The questions of the diagrams whose numbers are in `ai2d_test_ids.csv`."""
    try:
        names = (folder / "ai2d_test_ids.csv").read_text(encoding="utf-8").split()
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
    for name in names:
        file = folder / "questions" / f"{Path(name).name}.png.json"
        asked = read_json(file)
        asked = asked.get("questions") if isinstance(asked, dict) else None
        if not isinstance(asked, dict):
            raise DataError(f"{file}: an object 'questions' is needed")
        for text, entry in asked.items():
            options, right = entry.get("answerTexts"), entry.get("correctAnswer")
            if not isinstance(options, list) or not isinstance(right, int):
                raise DataError(f"{file}: '{text}' needs 'answerTexts' and 'correctAnswer'")
            yield choice(
                str(entry.get("questionId", f"{name} {text}")),
                folder / "images" / f"{Path(name).name}.png",
                text,
                dict(zip(LETTERS, map(str, options), strict=False)),
                LETTERS[right],
            )


def seed_row(row: dict[str, Any], image: RowImage) -> list[Question]:
    """A row of SEED-Bench on the hub, if it is about an image."""
    if row["data_type"] != "image":
        return []
    options = dict(zip(LETTERS, (row[f"choice_{c}"] for c in "abcd"), strict=False))
    number, category = str(row["question_id"]), str(row.get("question_type_id", ""))
    return [choice(number, image, row["question"], options, row["answer"], category)]


def ai2d_row(row: dict[str, Any], image: RowImage) -> Question:
    """A row of AI2D on the hub, which has no numbers."""
    options = dict(zip(LETTERS, row["options"], strict=False))
    return choice(str(image.place), image, row["question"], options, LETTERS[int(row["answer"])])


def benchmark(
    name: str,
    title: str,
    split: str,
    layout: str,
    questions: Callable[[Path, str], Iterator[Question]],
    hub: Hub | None = None,
) -> Benchmark:
    """A benchmark of options, whose questions come from a generator."""

    def load(folder: Path, split: str) -> list[Question]:
        try:
            found = list(questions(folder, split))
        except OSError as error:
            raise DataError(f"cannot read {error.filename}: {error.strerror}") from error
        counts = {question.id for question in found}
        if len(counts) < len(found):
            raise DataError(f"{folder}: {len(found) - len(counts)} questions with an id of another")
        return found

    return Benchmark(
        name=name,
        title=title,
        splits=(split,),
        layout=layout,
        load=load,
        score=score,
        max_tokens=16,
        each=lambda question, answer: float(
            read_choice(answer, question.scored_as.options) == question.answers[0]
        ),
        hub=hub,
    )


MMBENCH = benchmark(
    "mmbench",
    "MMBench, circular accuracy",
    "dev",
    "mmbench_dev_20230712.tsv",
    mmbench,
    Hub("lmms-lab-encoder/MMBench", {"dev": "dev"}, mmbench_row, config="en"),
)
SEED_IMAGE = benchmark(
    "seed",
    "SEED-Bench images, accuracy",
    "all",
    "SEED-Bench.json and SEED-Bench-image/",
    seed,
    Hub("lmms-lab-encoder/SEED-Bench", {"all": "test"}, seed_row),
)
AI2D = benchmark(
    "ai2d",
    "AI2D, accuracy",
    "test",
    "ai2d_test_ids.csv, questions/ and images/",
    ai2d,
    Hub("lmms-lab-encoder/ai2d", {"test": "test"}, ai2d_row),
)
