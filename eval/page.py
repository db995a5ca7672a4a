"""The page of a run: photos with question, answers, prediction and score, to look through."""

import base64
import random
from collections import Counter
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from eval.predictions import Prediction
from eval.question import Question
from vlm.errors import DataError, ImageError

WORST, SAMPLED = 100, 100
"""Questions shown: those of the lowest score, and as many drawn from all."""

THUMBNAIL = 160
"""Pixels of a photo's longer side, at most."""


def write_page(
    file: Path,
    title: str,
    reports: list[dict[str, Any]],
    questions: Sequence[Question],
    predictions: Sequence[Prediction],
    worth: Sequence[float],
) -> None:
    """Writes one HTML file with all that it shows inside.

    Args:
        file: where.
        title: of the page.
        reports: of all who were asked the same, for the table at the top.
        questions: of the benchmark.
        predictions: the answer to each.
        worth: the score of each, 0 to 1.

    Raises:
        DataError: the file cannot be written.
    """
    # Who answers everything alike has as many worst answers as questions: then any will do.
    order = list(range(len(questions)))
    random.Random(0).shuffle(order)
    worst = sorted(order, key=lambda place: worth[place])[:WORST]
    sample = sorted(order[:SAMPLED])
    photos: dict[int, str | None] = {}

    def row(place: int) -> dict[str, Any]:
        question, prediction = questions[place], predictions[place]
        if place not in photos:
            photos[place] = thumbnail(question)
        counts = Counter(question.answers).most_common()
        return {
            "photo": photos[place],
            "name": prediction.image or question.id,
            "question": question.text,
            "answers": ", ".join(answer + f" ({count})" * (count > 1) for answer, count in counts),
            "prediction": prediction.prediction,
            "error": prediction.error,
            "score": worth[place],
        }

    sections = [
        (f"The {len(worst)} worst answers", [row(place) for place in worst]),
        (f"{len(sample)} answers at random", [row(place) for place in sample]),
    ]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = environment.get_template("page.html").render(
        title=title, reports=reports, sections=sections
    )
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror}") from error


def thumbnail(question: Question) -> str | None:
    """A small JPEG of the photo as a `data:` URL; None for one that cannot be read."""
    try:
        small = question.photo().copy()
    except ImageError:
        return None
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    file = BytesIO()
    small.save(file, format="JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
