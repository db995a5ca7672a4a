"""MME (Fu et al. 2023): two yes-or-no questions about each image, in 14 categories."""

from pathlib import Path
from typing import Any

from eval.benchmark import NO_SPLITS, Benchmark
from eval.hub import Hub
from eval.metrics.mme import answer_of, score_mme
from eval.metrics.scores import Scores
from eval.prompts import SHORT_ANSWER
from eval.question import Question, RowImage
from vlm.errors import DataError

ENDING = "Please answer yes or no."


def load(folder: Path, split: str) -> list[Question]:
    """The questions of every category's folder: texts of two lines, question, tab, `Yes` or `No`,
    beside the images or in `questions_answers_YN/` with the images in `images/`.

    Raises:
        DataError: a file that is broken, or has no image.
    """
    questions = []
    for category in sorted(path for path in folder.iterdir() if path.is_dir()):
        apart = (category / "questions_answers_YN").is_dir()
        photos = category / "images" if apart else category
        images = {photo.stem: photo for photo in photos.iterdir() if photo.suffix != ".txt"}
        for file in sorted(
            (category / "questions_answers_YN" if apart else category).glob("*.txt")
        ):
            if file.stem not in images:
                raise DataError(f"{file}: there is no image {file.stem} in {photos}")
            lines = file.read_text(encoding="utf-8").splitlines()
            for place, line in enumerate(filter(str.strip, lines), start=1):
                text, tab, answer = line.partition("\t")
                if not tab or answer.strip() not in ("Yes", "No"):
                    raise DataError(f"{file}: '{line}' is no question, tab, and Yes or No")
                asked = text.replace(ENDING, "").strip()
                questions.append(
                    Question(
                        f"{category.name}/{file.stem}/{place}",
                        images[file.stem],
                        f"{asked}\n{SHORT_ANSWER}",
                        (answer.strip().lower(),),
                        {"category": category.name},
                        scored_as=(category.name, file.stem),
                    )
                )
    return questions


def row_question(row: dict[str, Any], image: RowImage) -> Question:
    """A row on the hub."""
    answer = row["answer"].strip().lower()
    if answer not in ("yes", "no"):
        raise ValueError(f"answer {answer}")
    asked = row["question"].replace(ENDING, "").strip()
    category, shown = row["category"], row["question_id"]
    number = f"{category}/{shown}/{image.place}/{asked}"
    text = f"{asked}\n{SHORT_ANSWER}"
    return Question(number, image, text, (answer,), {"category": category}, (category, shown))


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """Accuracy and accuracy+ of each category."""
    return score_mme(
        [(*question.scored_as, question.answers[0]) for question in questions], predictions
    )


MME = Benchmark(
    name="mme",
    title="MME, accuracy and accuracy+",
    splits=NO_SPLITS,
    layout="the folders of the categories",
    load=load,
    score=score,
    max_tokens=16,
    each=lambda question, answer: float(answer_of(answer) == question.answers[0]),
    hub=Hub("lmms-lab-encoder/MME", {"all": "test"}, row_question, same_image="question_id"),
)
