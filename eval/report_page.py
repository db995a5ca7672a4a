"""`report.html`, the page of a run: photos with question, answers, prediction and score, to look
through."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from eval.predictions import Prediction
from eval.question import Question, data_url
from vlm.errors import ImageError
from vlm.files import write_file

WORST, SAMPLED = 100, 100
"""Questions shown: those of the lowest score, and as many drawn from all."""

THUMBNAIL = 160
"""Pixels of a photo's longer side, at most."""


def write_page(
    file: Path,
    report: dict[str, Any],
    questions: Sequence[Question],
    predictions: Sequence[Prediction],
    worth: Sequence[float],
) -> None:
    """Writes one HTML file with all that it shows inside."""
    # Who answers everything alike has as many worst answers as questions: then any will do.
    order = list(range(len(questions)))
    random.Random(0).shuffle(order)
    worst = sorted(order, key=lambda place: worth[place])[:WORST]
    sample = sorted(order[:SAMPLED])
    rows = {
        place: row(questions[place], predictions[place], worth[place])
        for place in {*worst, *sample}
    }
    sections = [
        (f"The {len(worst)} worst answers", [rows[place] for place in worst]),
        (f"{len(sample)} answers at random", [rows[place] for place in sample]),
    ]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    template = environment.get_template("report_page.html")
    write_file(file, template.render(report=report, sections=sections))


def row(question: Question, prediction: Prediction, score: float) -> dict[str, Any]:
    counts = Counter(question.answers).most_common()
    return {
        "photo": thumbnail(question),
        "name": prediction.image or question.id,
        "question": question.text,
        "answers": ", ".join(answer + f" ({count})" * (count > 1) for answer, count in counts),
        "prediction": prediction.prediction,
        "error": prediction.error,
        "score": score,
    }


def thumbnail(question: Question) -> str | None:
    """A small JPEG of the photo as a `data:` URL; None for one that cannot be read."""
    try:
        small = question.photo().copy()
    except ImageError:
        return None
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return data_url(small, "jpeg", quality=80)
