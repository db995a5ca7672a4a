"""A-OKVQA (Schwenk et al. 2022): questions that need knowledge, with choices and without."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.benchmarks.choice import LETTERS, choice, is_right, score
from eval.hub import Hub, Row
from eval.prompts import short
from eval.question import Question, texts_in
from vlm.data.records import read_records
from vlm.data.rows import listed_in


def rows(folder: Path, split: str) -> Iterator[Row]:
    needed = ("question_id", "image_id", "question")
    for where, entry, _ in read_records(folder / "aokvqa_v1p0_val.json", needed):
        yield Row(where, entry, (folder / "val2017", f"{str(entry['image_id']).zfill(12)}.jpg"))


def with_choices(row: dict[str, Any], image: Any) -> Question:
    options, answer = texts_in(row, "choices"), LETTERS[row["correct_choice_idx"]]
    return choice(row["question_id"], image, row["question"], options, answer)


def direct(row: dict[str, Any], image: Any) -> list[Question]:
    """A row without choices, unless the data set calls it too hard for that."""
    if row["difficult_direct_answer"]:
        return []
    # On the hub it is the text of a list.
    listed = {"direct_answers": listed_in(row["direct_answers"])}
    given = texts_in(listed, "direct_answers")
    return [Question(row["question_id"], image, short(row["question"]), given)]


def direct_match(answer: str, given: Sequence[str]) -> float:
    """A third for each of ten people's answers that an answer equals, at most 1. As in the official
    code, nothing is normalised: `Net` is not `net`."""
    return min(1.0, sum(answer == one for one in given) / 3)


A_OKVQA = Benchmark(
    name="aokvqa",
    title="A-OKVQA choices, accuracy",
    splits=("val",),
    layout="aokvqa_v1p0_val.json and val2017/",
    rows=rows,
    question=with_choices,
    each=is_right,
    score_all=score,
    hub=Hub("HuggingFaceM4/A-OKVQA", {"val": "validation"}),
)
A_OKVQA_DIRECT = replace(
    A_OKVQA,
    name="aokvqa-direct",
    title="A-OKVQA direct answers, accuracy",
    question=direct,
    metric="A-OKVQA direct answer accuracy",
    each=lambda question, answer: direct_match(answer, question.answers),
    score_all=None,
    folder="aokvqa",
)
