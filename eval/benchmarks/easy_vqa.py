"""easy-VQA (Victor Zhou 2019): one coloured shape, 13 answers; a PyPI package has it all."""

from pathlib import Path

from eval.benchmark import Benchmark
from eval.metrics.exact import exact_match, score_exact
from eval.metrics.scores import Scores
from eval.prompts import SHORT_ANSWER
from eval.question import Question
from vlm.errors import VLMError

SHAPES = {"circle", "rectangle", "triangle"}


def load(folder: Path, split: str) -> list[Question]:
    """The questions of the package, which has the images too."""
    try:
        import easy_vqa
    except ImportError as error:
        raise VLMError("easy-vqa needs the package: pip install 'vlm[eval]'") from error
    of_split = {
        "test": (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
        "train": (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
    }
    questions, images = (get() for get in of_split[split])
    return [
        Question(
            f"{split}_{place}",
            Path(images[number]),
            f"{text}\n{SHORT_ANSWER}",
            (answer,),
            {"kind": kind_of(answer)},
        )
        for place, (text, answer, number) in enumerate(zip(*questions, strict=True))
    ]


def kind_of(answer: str) -> str:
    """What a question asks for, by its answer: `yes/no`, `shape` or `colour`."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in SHAPES else "colour"


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """Exact match, by what is asked for."""
    return score_exact(
        predictions,
        [question.answers[0] for question in questions],
        [question.labels["kind"] for question in questions],
    )


EASY_VQA = Benchmark(
    name="easy-vqa",
    title="easy-VQA, exact match",
    splits=("test", "train"),
    layout=None,
    load=load,
    score=score,
    max_tokens=16,
    each=lambda question, answer: float(exact_match(answer, question.answers[0])),
)
