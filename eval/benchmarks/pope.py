"""POPE (Li et al. 2023): is there such an object on the photo? Three ways to choose what is not."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub, Row
from eval.metrics.pope import says_yes, score_pope
from eval.metrics.scores import Scores
from eval.prompts import short
from eval.question import Question
from vlm.data.records import read_records

KINDS = ("random", "popular", "adversarial")


def rows(folder: Path, split: str) -> Iterator[Row]:
    """The questions of all three files, which number theirs alike."""
    for kind in KINDS:
        records = read_records(folder / f"coco_pope_{kind}.json", ("text", "image", "label"))
        for place, (where, entry, _) in enumerate(records, start=1):
            content = {"question": entry["text"], "answer": entry["label"]}
            content |= {"question_id": place, "category": kind}
            yield Row(where, content, (folder / "val2014", entry["image"]))


def question(row: dict[str, Any], image: Any) -> Question:
    answer, kind = row["answer"].strip().lower(), row["category"]
    if answer not in ("yes", "no"):
        raise ValueError(f"answer {answer}")
    number = f"{kind}_{row['question_id']}"
    return Question(number, image, short(row["question"]), (answer,), {"split": kind})


def is_right(question: Question, answer: str) -> float:
    return float(says_yes(answer) == (question.answers[0] == "yes"))


def score(questions: Sequence[Question], answers: Sequence[str]) -> Scores:
    """F1 of yes, the mean of the three, and all else of each."""
    splits: dict[str, tuple[list[str], list[bool]]] = {}
    for one, answer in zip(questions, answers, strict=True):
        said, there = splits.setdefault(one.labels["split"], ([], []))
        said.append(answer)
        there.append(one.answers[0] == "yes")
    return score_pope(splits)


POPE = Benchmark(
    name="pope",
    title="POPE, F1 of yes",
    splits=("val",),
    layout="coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json and val2014/",
    rows=rows,
    question=question,
    each=is_right,
    score_all=score,
    hub=Hub("lmms-lab-encoder/POPE", {"val": "test"}, same_image="image_source"),
)
