"""`predictions.jsonl`: every answer as it comes, one line each, so that a killed run loses none."""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from vlm.data.captioned import read_records
from vlm.errors import DataError


@dataclass(frozen=True)
class Prediction:
    """What a model answered.

    Attributes:
        question_id: the question's.
        image: the name of its photo; None where it has no file.
        question: all that the model was asked.
        prediction: its answer; "" where there is none.
        answers: of the question.
        error: why there is no answer; None if there is one.
    """

    question_id: str
    image: str | None
    question: str
    prediction: str
    answers: tuple[str, ...]
    error: str | None = None


def read_predictions(file: Path) -> dict[str, Prediction]:
    """The answers that a file has, by question; none if there is no file.

    A last line that was being written when the run was killed is cut off, in the file too.

    Raises:
        DataError: a line that is no answer, or one that is there twice.
    """
    try:
        size = file.stat().st_size
        if size:
            with open(file, "r+b") as lines:
                whole = end_of_last_line(lines.read())
                lines.truncate(whole)
            size = whole
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    found: dict[str, Prediction] = {}
    for number, record in read_records(file, ("question_id", "prediction")) if size else ():
        try:
            one = Prediction(**record | {"answers": tuple(record["answers"])})
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{file}, line {number}: no answer as this project writes it"
            ) from error
        if one.question_id in found:
            raise DataError(f"{file}, line {number}: a second answer to {one.question_id}")
        found[one.question_id] = one
    return found


def forget_failed(file: Path, found: dict[str, Prediction]) -> dict[str, Prediction]:
    """What a file has without those that failed, which the file loses too: the whole of it is
    there at any time, with them or without.

    Args:
        file: as `read_predictions` read it.
        found: what it has.

    Raises:
        DataError: the file cannot be written.
    """
    answers = {number: one for number, one in found.items() if one.error is None}
    if len(answers) < len(found):
        partial = file.with_name(f".{file.name}.partial")
        try:
            partial.unlink(missing_ok=True)
            append_predictions(partial, answers.values())
            os.replace(partial, file)
        except OSError as error:
            raise DataError(f"cannot write {file}: {error.strerror}") from error
    return answers


def end_of_last_line(content: bytes) -> int:
    """How many bytes are whole lines."""
    return content.rfind(b"\n") + 1


def append_predictions(file: Path, predictions: Iterable[Prediction]) -> None:
    """Writes answers behind those that are there, on the disk when it returns.

    Raises:
        DataError: the file cannot be written.
    """
    text = "".join(
        json.dumps(asdict(prediction), ensure_ascii=False) + "\n" for prediction in predictions
    )
    try:
        with open(file, "a", encoding="utf-8") as lines:
            lines.write(text)
            lines.flush()
            os.fsync(lines.fileno())
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror}") from error
