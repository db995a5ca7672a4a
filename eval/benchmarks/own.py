"""Questions or captions of one's own: `vlm eval FOLDER/questions.jsonl`."""

from functools import partial
from pathlib import Path

from eval.benchmark import NO_SPLITS, Benchmark
from eval.benchmarks.captions import DESCRIBE
from eval.benchmarks.captions import score as score_captions
from eval.metrics.any_of import any_match, score_any
from eval.metrics.scores import Scores
from eval.question import Question
from vlm.data.captioned import (
    image_path,
    read_captions,
    read_records,
    require_images,
    require_names,
    require_texts,
)
from vlm.errors import DataError


def own(file: Path, instruction: str | None = None) -> Benchmark:
    """A JSON-lines file as a benchmark: lines with `image` and `captions`, or with `image`,
    `question`, `answers`, and optionally `kind`; both optionally with `split`.

    Args:
        file: the JSON-lines file.
        instruction: put behind each question, on a line of its own; None is nothing.

    Raises:
        DataError: no such file, or lines that are neither.
    """
    records = read_records(file, ("image",))
    splits = tuple(dict.fromkeys(r["split"] for _, r in records if r.get("split"))) or NO_SPLITS
    # What is held out comes first.
    order = ("test", "val")
    first = [split for split in order if split in splits]
    splits = (*first, *(split for split in splits if split not in first))
    captions = "captions" in records[0][1]
    load = partial(captions_of, file) if captions else partial(questions_of, file, instruction)
    return Benchmark(
        name=f"{file.resolve().parent.name}-{file.stem}",
        title=f"{file}, {'CIDEr-D' if captions else 'any answer'}",
        splits=splits,
        layout=None,
        load=load,
        score=score_captions if captions else score,
        max_tokens=40 if captions else 16,
        each=None if captions else lambda q, answer: float(any_match(answer, q.answers)),
        file=file,
    )


def captions_of(file: Path, folder: Path, split: str) -> list[Question]:
    """The photos of a split.

    Raises:
        DataError: a line that is broken, or a photo that is not there.
    """
    items = read_captions(file, None if split == "all" else split)
    return [
        Question(f"{place}/{item.image.name}", item.image, DESCRIBE, tuple(item.captions))
        for place, item in enumerate(items)
    ]


def questions_of(file: Path, instruction: str | None, folder: Path, split: str) -> list[Question]:
    """The questions of a split.

    Raises:
        DataError: a line that is broken, or a photo that is not there.
    """
    ending = "" if instruction is None else f"\n{instruction}"
    questions = []
    for number, record in read_records(file, ("image", "question", "answers")):
        where = f"{file}, line {number}"
        require_names(where, record, ("split", "kind"))
        text = record["question"]
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: 'question' must be a non-empty string")
        if split not in ("all", record.get("split")):
            continue
        answers = tuple(require_texts(where, record["answers"], "answer"))
        labels = {"kind": record["kind"]} if record.get("kind") else {}
        image = image_path(file, number, record["image"])
        questions.append(Question(str(number), image, text + ending, answers, labels))
    require_images(file, list(dict.fromkeys(question.image for question in questions)))
    return questions


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """The share of answers that are one of the right ones, by kind."""
    kinds = [question.labels.get("kind") for question in questions]
    answers = [question.answers for question in questions]
    return score_any(predictions, answers, kinds if any(kinds) else None)
