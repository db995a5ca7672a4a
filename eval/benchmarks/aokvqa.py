"""A-OKVQA (Schwenk et al. 2022): questions that need knowledge, with choices and without."""

from ast import literal_eval
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.benchmarks.choice import LETTERS, benchmark, choice
from eval.hub import Hub
from eval.metrics.direct import direct_match, score_direct
from eval.metrics.scores import Scores
from eval.official import entries
from eval.prompts import SHORT_ANSWER
from eval.question import Question, RowImage
from vlm.errors import DataError

LAYOUT = "aokvqa_v1p0_val.json and val2017/"

HUB = "HuggingFaceM4/A-OKVQA"


def official(folder: Path, needed: dict[str, type]) -> Iterator[tuple[dict[str, Any], Path]]:
    """The entries of the official file, and where their photos are.

    Raises:
        DataError: a file that is missing, or an entry without what is needed.
    """
    file = folder / "aokvqa_v1p0_val.json"
    needed = {"question_id": str, "image_id": int, "question": str, **needed}
    for place, entry in enumerate(entries(file), start=1):
        if any(not isinstance(entry.get(name), kind) for name, kind in needed.items()):
            raise DataError(f"{file}: entry {place} needs {', '.join(needed)}")
        yield entry, folder / "val2017" / f"{entry['image_id']:012d}.jpg"


def choices(folder: Path, split: str) -> Iterator[Question]:
    """The questions with their four choices."""
    needed = {"choices": list, "correct_choice_idx": int}
    yield from (choices_row(entry, image) for entry, image in official(folder, needed))


def choices_row(row: dict[str, Any], image: Path | RowImage) -> Question:
    """An entry, or a row on the hub, with its choices."""
    options = dict(zip(LETTERS, map(str, row["choices"]), strict=False))
    answer = LETTERS[row["correct_choice_idx"]]
    return choice(row["question_id"], image, row["question"], options, answer)


def direct(folder: Path, split: str) -> list[Question]:
    """The questions without choices, but those that the data set calls too hard for that."""
    needed = {"direct_answers": list, "difficult_direct_answer": bool}
    rows = (direct_row(entry, image) for entry, image in official(folder, needed))
    return [question for questions in rows for question in questions]


def direct_row(row: dict[str, Any], image: Path | RowImage) -> list[Question]:
    """An entry, or a row on the hub, if it can be asked without choices."""
    if row["difficult_direct_answer"]:
        return []
    answers = row["direct_answers"]
    if isinstance(answers, str):
        # So the hub has them: a list, as Python writes it.
        try:
            answers = literal_eval(answers)
        except SyntaxError as error:
            raise ValueError(f"direct_answers: {error.msg}") from error
    text = f"{row['question']}\n{SHORT_ANSWER}"
    return [Question(row["question_id"], image, text, tuple(map(str, answers)))]


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """As people answered, word for word."""
    return score_direct(predictions, [question.answers for question in questions])


A_OKVQA = benchmark(
    "aokvqa",
    "A-OKVQA choices, accuracy",
    "val",
    LAYOUT,
    choices,
    Hub(HUB, {"val": "validation"}, choices_row),
)
A_OKVQA_DIRECT = Benchmark(
    name="aokvqa-direct",
    title="A-OKVQA direct answers, accuracy",
    splits=("val",),
    layout=LAYOUT,
    load=direct,
    score=score,
    max_tokens=16,
    each=lambda question, answer: direct_match(answer, question.answers),
    hub=Hub(HUB, {"val": "validation"}, direct_row),
    folder="aokvqa",
)
