"""DAQUAR (Malinowski and Fritz 2014): indoor scenes, questions of people."""

from pathlib import Path

from eval.benchmark import Benchmark
from eval.metrics.exact import exact_match, score_exact
from eval.metrics.scores import Scores
from eval.official import by_id, entries, texts
from eval.prompts import SHORT_ANSWER
from eval.question import Question
from vlm.errors import DataError


def load(folder: Path, split: str) -> list[Question]:
    """The questions of `questions.jsonl`.

    Raises:
        DataError: a file that is missing or broken.
    """
    file = folder / "questions.jsonl"
    questions = []
    for number, entry in by_id(file, entries(file), "id").items():
        if entry.get("split") != split:
            continue
        text, image = entry.get("question"), entry.get("image")
        if not isinstance(text, str) or not isinstance(image, str) or ".." in image:
            raise DataError(f"{file}: {number} needs texts 'question' and 'image'")
        questions.append(
            Question(
                str(number),
                folder / image,
                f"{text}\n{SHORT_ANSWER}",
                (", ".join(texts(file, number, entry)),),
            )
        )
    return questions


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """Exact match."""
    return score_exact(predictions, [question.answers[0] for question in questions])


DAQUAR = Benchmark(
    name="daquar",
    title="DAQUAR, exact match",
    splits=("test", "train"),
    layout="questions.jsonl (id, image, question, answers, split) and images/",
    load=load,
    score=score,
    max_tokens=16,
    each=lambda question, answer: float(exact_match(answer, question.answers[0])),
)
