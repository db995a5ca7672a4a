"""`vlm eval questions`: short answers to questions about photos, right if they are exactly one of
those that people gave."""

import re
from collections import Counter
from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

import vlm
from eval.captions import Answerer
from vlm.captions import (
    image_path,
    read_records,
    require_images,
    require_names,
    require_texts,
    write_records,
)
from vlm.errors import DataError
from vlm.images import load_image

MAX_TOKENS = 16


@dataclass(frozen=True)
class Question:
    """A question about a photo.

    Args:
        image: path of the photo.
        text: what is asked.
        answers: each of them is right.
        split: the part of the data set it belongs to; None if the file does not say.
        kind: what it asks for, such as `yes/no`; None if the file does not say.
    """

    image: Path
    text: str
    answers: list[str]
    split: str | None = None
    kind: str | None = None


@dataclass(frozen=True)
class Score:
    """How often a model is right.

    Args:
        accuracy: share of right answers, 0 to 1.
        majority: the share that the one best constant answer would get right, 0 to 1.
        questions: number of questions.
    """

    accuracy: float
    majority: float
    questions: int


@dataclass(frozen=True)
class QuestionReport:
    """The scores of a model's answers.

    Args:
        overall: over all questions.
        kinds: for each kind of question, in alphabetical order; empty if the file has no kinds.
        instruction: what was put behind each question; None is nothing.
        photos: number of photos asked about.
    """

    overall: Score
    kinds: dict[str, Score]
    instruction: str | None
    photos: int


def read_questions(
    file: Path, split: str | None = None, kind: str | None = None, limit: int | None = None
) -> list[Question]:
    """Read the questions of a JSON-lines file, in its order.

    A line holds `image` (a path relative to the file's folder, or to its `images/` folder when
    there is one), `question`, `answers` (a non-empty list of non-empty strings) and optionally
    `split` and `kind`.

    Args:
        file: the JSON-lines file.
        split: keep only this split; None keeps all.
        kind: keep only this kind; None keeps all.
        limit: keep only the first ones; None keeps all.

    Raises:
        DataError: no such file, a line that is not such an object, a path that leaves the folder,
            no question of that split or kind, a limit below 1, or a photo that is not there.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, not {limit}")
    questions = []
    for number, record in read_records(file, required=("image", "question", "answers")):
        where = f"{file}, line {number}"
        answers = require_texts(where, record["answers"], "answer")
        if not isinstance(record["question"], str) or not record["question"].strip():
            raise DataError(f"{where}: 'question' must be a non-empty string")
        require_names(where, record, ("split", "kind"))
        questions.append(
            Question(
                image_path(file, number, record["image"]),
                record["question"],
                answers,
                record.get("split"),
                record.get("kind"),
            )
        )
    for key, wanted in (("split", split), ("kind", kind)):
        if wanted is None:
            continue
        there = sorted({value for question in questions if (value := getattr(question, key))})
        questions = [question for question in questions if getattr(question, key) == wanted]
        if not questions:
            raise DataError(
                f"{file}: no question of {key} '{wanted}'; "
                f"there are: {', '.join(there) or f'no {key}s'}"
            )
    questions = questions[:limit]
    require_images(file, list(dict.fromkeys(question.image for question in questions)))
    return questions


def normalise(answer: str) -> str:
    """An answer as it is compared: `" A dog."` -> `dog`."""
    plain = " ".join(answer.lower().split()).rstrip(". ")
    return re.sub(r"^((a|an|the) )+", "", plain)


def is_right(question: Question, prediction: str) -> bool:
    """Whether a prediction is one of the answers, once normalised."""
    return normalise(prediction) in map(normalise, question.answers)


def score(questions: list[Question], predictions: list[str]) -> Score:
    """The scores of predictions, one for each question."""
    right = sum(map(is_right, questions, predictions))
    constants = Counter(
        answer for question in questions for answer in set(map(normalise, question.answers))
    )
    ((_, most),) = constants.most_common(1)
    return Score(right / len(questions), most / len(questions), len(questions))


def answer_questions(
    model: Answerer, questions: list[Question], instruction: str | None, batch_size: int
) -> list[str]:
    """The greedy answers, of at most 16 tokens, to questions about photos.

    Args:
        model: a loaded model.
        questions: in any order; those about the same photo are asked together, so that it is
            encoded once.
        instruction: a line behind each question; None is none.
        batch_size: questions answered at a time.

    Raises:
        DataError: `batch_size` is not positive.
        ImageError: a photo cannot be read.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, not {batch_size}")
    ending = "" if instruction is None else f"\n{instruction}"
    longest: Counter[Path] = Counter()
    for question in questions:
        longest[question.image] = max(longest[question.image], len(question.text))
    # Photos with questions of like length are neighbours: less padding.
    order = sorted(
        range(len(questions)), key=lambda i: (longest[questions[i].image], questions[i].image)
    )
    answers = [""] * len(questions)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("answering", total=len(questions))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            asked = [questions[place] for place in places]
            photos = {path: load_image(path) for path in {question.image for question in asked}}
            pairs = [(photos[question.image], question.text + ending) for question in asked]
            predictions = model.batch(pairs, batch_size=batch_size, max_tokens=MAX_TOKENS)
            for place, prediction in zip(places, predictions, strict=True):
                answers[place] = prediction
            progress.advance(task, len(places))
    return answers


def evaluate_questions(
    model: Answerer,
    questions: list[Question],
    instruction: str | None,
    batch_size: int,
    output: Path | None = None,
) -> QuestionReport:
    """Ask a model questions and score its answers.

    Args:
        model: a loaded model.
        questions: with the answers that are right; at least one.
        instruction: a line behind each question; None is none.
        batch_size: questions answered at a time.
        output: JSON-lines file for the answers (image, question, prediction, answers, right); None
            writes none.

    Raises:
        DataError: `batch_size` is not positive, or the answers cannot be written.
        ImageError: a photo cannot be read.
    """
    predictions = answer_questions(model, questions, instruction, batch_size)
    answered = list(zip(questions, predictions, strict=True))
    if output is not None:
        write_records(
            output,
            (
                {
                    "image": question.image.name,
                    "question": question.text,
                    "prediction": prediction,
                    "answers": question.answers,
                    "right": is_right(question, prediction),
                }
                for question, prediction in answered
            ),
        )
    kinds = {}
    for kind in sorted({question.kind for question in questions if question.kind}):
        of_kind = [pair for pair in answered if pair[0].kind == kind]
        kinds[kind] = score(*map(list, zip(*of_kind, strict=True)))
    photos = len({question.image for question in questions})
    return QuestionReport(score(questions, predictions), kinds, instruction, photos)


def main(
    file: Path,
    model: str = "embedded",
    split: str | None = "test",
    kind: str | None = None,
    instruction: str | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Score a model's short answers by exact match, but for case, articles and the full stop.

    Args:
        file: JSON-lines with `image`, `question`, `answers`, and optionally `split` and `kind`.
        model: what to evaluate: `embedded`, or a checkpoint folder.
        split: the split to ask; null asks all.
        kind: only questions of this kind, such as `yes/no`; all of them without it.
        instruction: a line behind each question, such as "Answer with a single word or phrase.".
        limit: only the first questions; all of them without it.
        batch_size: questions answered at a time.
        output: JSON-lines file for the answers; none is written without it.
        json: print JSON instead of a table.
    """
    questions = read_questions(file, split, kind, limit)
    report = evaluate_questions(vlm.load(model), questions, instruction, batch_size, output)
    if json:
        print(dumps(asdict(report)))
        return
    title = f"{report.overall.questions} questions about {report.photos} photos, {split or 'all'}"
    table = Table("kind", "questions", "accuracy", "majority", title=escape(title))
    for name, scored in {**report.kinds, "overall": report.overall}.items():
        shares = (f"{share:.1%}" for share in (scored.accuracy, scored.majority))
        table.add_row(escape(name), str(scored.questions), *shares)
    Console().print(table)
