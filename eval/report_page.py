"""`report.html`, the page of a run: its figures beside everyone's, and photos with question,
answers, prediction and score, to look through."""

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from eval.predictions import Prediction
from eval.question import Question, data_url
from eval.table import figures
from vlm.errors import ImageError
from vlm.files import write_file

WORST, SAMPLED = 100, 100
"""Questions shown: wrong ones of the lowest score, and as many drawn from all."""

RIGHT = 0.5
"""Score from which an answer is no longer wrong."""

PHOTO = 512
"""Pixels of a photo's longer side, at most."""


def write_page(
    file: Path,
    reports: Sequence[dict[str, Any]],
    questions: Sequence[Question],
    predictions: Sequence[Prediction],
    worth: Sequence[float],
) -> None:
    """Writes one HTML file with all that it shows inside; the first report is that of the run, the
    others are of those who were asked the same."""
    # Who answers everything alike has as many worst answers as questions: then any will do.
    order = list(range(len(questions)))
    random.Random(0).shuffle(order)
    wrong = sorted((n for n in order if worth[n] < RIGHT), key=lambda place: worth[place])
    worst, sample = wrong[:WORST], sorted(order[:SAMPLED])
    rows = {
        place: row(questions[place], predictions[place], worth[place])
        for place in {*worst, *sample}
    }
    told = f"The {len(worst)} worst of {len(wrong):,} wrong answers" if wrong else "No wrong answer"
    sections = [
        (told, [rows[n] for n in worst]),
        (f"{len(sample)} answers at random", [rows[n] for n in sample]),
    ]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    template = environment.get_template("report_page.html")
    page = template.render(
        report=reports[0],
        everyone=[report["who"] for report in reports],
        figures=figures(reports),
        right=RIGHT,
        kinds=sorted({kind for each in rows.values() for kind in each["kinds"]}),
        sections=sections,
    )
    write_file(file, page)


def row(question: Question, prediction: Prediction, score: float) -> dict[str, Any]:
    counts = Counter(question.answers).most_common()
    return {
        "photo": small(question),
        "name": prediction.image or question.id,
        "question": question.text,
        "kinds": [f"{name}: {label}" for name, label in question.labels.items()],
        "answers": ", ".join(answer + f" ({count})" * (count > 1) for answer, count in counts),
        "prediction": prediction.prediction,
        "error": prediction.error,
        "score": score,
    }


def small(question: Question) -> str | None:
    """The photo as a JPEG, in a `data:` URL; None for one that cannot be read."""
    try:
        photo = question.photo().copy()
    except ImageError:
        return None
    photo.thumbnail((PHOTO, PHOTO))
    return data_url(photo, "jpeg", quality=80)
