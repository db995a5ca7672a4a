"""MME (Fu et al. 2023): two yes-or-no questions about each image, in 14 categories. Accuracy of the
questions, and accuracy+ of images whose questions are both right, are added up over these."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.benchmark import NO_SPLITS, Benchmark
from eval.hub import Hub, Row
from eval.metrics.scores import Scores, group_means, mean_scores
from eval.prompts import short
from eval.question import Question, RowImage
from vlm.errors import DataError
from vlm.files import read_text

ENDING = "Please answer yes or no."

PERCEPTION = {
    *("existence", "count", "position", "color", "OCR"),
    *("posters", "celebrity", "scene", "landmark", "artwork"),
}
"""The other categories are cognition's."""


def rows(folder: Path, split: str) -> Iterator[Row]:
    """The questions of every category's folder: texts of two lines, question, tab, `Yes` or `No`,
    beside the images or in `questions_answers_YN/` with the images in `images/`."""
    for category in sorted(path for path in folder.iterdir() if path.is_dir()):
        texts, photos = category / "questions_answers_YN", category / "images"
        if not texts.is_dir():
            texts = photos = category
        images = {photo.stem: photo for photo in photos.iterdir() if photo.suffix != ".txt"}
        for file in sorted(texts.glob("*.txt")):
            if file.stem not in images:
                raise DataError(f"{file}: there is no image {file.stem} in {photos}")
            lines = filter(str.strip, read_text(file).splitlines())
            for place, line in enumerate(lines, start=1):
                text, _, answer = line.partition("\t")
                content = {"question": text, "answer": answer, "category": category.name}
                content |= {"question_id": file.stem, "place": place}
                yield Row(f"{file}: '{line}'", content, (photos, images[file.stem].name))


def question(row: dict[str, Any], image: Any) -> Question:
    """A row as it is asked; scored with the other questions about its image."""
    answer = row["answer"].strip().lower()
    if answer not in ("yes", "no"):
        raise ValueError(f"answer {answer}")
    asked = row["question"].replace(ENDING, "").strip()
    shown = row["category"], row["question_id"]
    # On the hub nothing says which of the questions about an image it is.
    place = f"{image.place}/{asked}" if isinstance(image, RowImage) else row["place"]
    labels = {"category": row["category"]}
    return Question(f"{shown[0]}/{shown[1]}/{place}", image, short(asked), (answer,), labels, shown)


def answer_of(text: str) -> str | None:
    """`yes` or `no`, if it is in the first four characters of an answer, in any case, as the
    official script reads it (`snow` is no); None is neither, and wrong."""
    start = text.lower()[:4]
    return next((answer for answer in ("yes", "no") if answer in start), None)


def is_right(question: Question, answer: str) -> float:
    return float(answer_of(answer) == question.answers[0])


def score(questions: Sequence[Question], answers: Sequence[str]) -> Scores:
    """Accuracy over all questions, and in `more` MME's sums: of each category, accuracy plus
    accuracy+ in percent (0 to 200), added up for perception and for cognition."""
    each = [is_right(*pair) for pair in zip(questions, answers, strict=True)]
    images: dict[tuple[str, str], list[float]] = defaultdict(list)
    for question, right in zip(questions, each, strict=True):
        images[question.scored_as].append(right)
    accuracy = group_means(each, [question.labels["category"] for question in questions])
    plus = group_means([min(both) for both in images.values()], [name for name, _ in images])
    sums = {category: accuracy[category] + plus[category] for category in accuracy}
    more = {
        "perception": sum(value for name, value in sums.items() if name in PERCEPTION),
        "cognition": sum(value for name, value in sums.items() if name not in PERCEPTION),
    }
    groups = {"per_category_accuracy": accuracy, "per_category_accuracy_plus": plus}
    return mean_scores("MME accuracy", each, groups, more)


MME = Benchmark(
    name="mme",
    title="MME, accuracy and accuracy+",
    splits=NO_SPLITS,
    layout="the folders of the categories",
    rows=rows,
    question=question,
    each=is_right,
    score_all=score,
    hub=Hub("lmms-lab-encoder/MME", {"all": "test"}, same_image="question_id"),
)
