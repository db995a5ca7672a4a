"""MME (Fu et al. 2023): two yes-or-no questions about each image, in 14 categories."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.benchmark import NO_SPLITS, Benchmark
from eval.hub import Hub, Row
from eval.metrics.mme import answer_of, score_mme
from eval.metrics.scores import Scores
from eval.prompts import short
from eval.question import Question
from vlm.data.photos import RowPhoto
from vlm.errors import DataError
from vlm.files import read_text

ENDING = "Please answer yes or no."


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
    """A row as it is asked; scored by category and image, whose questions go together."""
    answer = row["answer"].strip().lower()
    if answer not in ("yes", "no"):
        raise ValueError(f"answer {answer}")
    asked = row["question"].replace(ENDING, "").strip()
    shown = row["category"], row["question_id"]
    # On the hub nothing says which of the questions about an image it is.
    place = f"{image.row}/{asked}" if isinstance(image, RowPhoto) else row["place"]
    labels = {"category": row["category"]}
    return Question(f"{shown[0]}/{shown[1]}/{place}", image, short(asked), (answer,), labels, shown)


def score(questions: Sequence[Question], answers: Sequence[str]) -> Scores:
    return score_mme([(*one.scored_as, one.answers[0]) for one in questions], answers)


MME = Benchmark(
    name="mme",
    title="MME, accuracy and accuracy+",
    splits=NO_SPLITS,
    layout="the folders of the categories",
    rows=rows,
    question=question,
    each=lambda question, answer: float(answer_of(answer) == question.answers[0]),
    score_all=score,
    hub=Hub("lmms-lab-encoder/MME", {"all": "test"}, same_image="question_id"),
)
