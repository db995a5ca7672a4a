"""easy-VQA (Victor Zhou 2019): one coloured shape, 13 answers; a PyPI package has it all."""

from pathlib import Path

from eval.benchmark import Benchmark
from eval.metrics.exact import exact_match
from eval.prompts import short
from eval.question import Question
from vlm.data.easy_vqa import read_easy_vqa


def load(folder: Path, split: str) -> list[Question]:
    return [
        Question(f"{split}_{place}", image, short(text), (answer,), {"kind": kind_of(answer)})
        for place, (image, text, answer) in enumerate(read_easy_vqa(split))
    ]


def kind_of(answer: str) -> str:
    """What a question asks for, by its answer: `yes/no`, `shape` or `colour`."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in ("circle", "rectangle", "triangle") else "colour"


EASY_VQA = Benchmark(
    name="easy-vqa",
    title="easy-VQA, exact match",
    splits=("test", "train"),
    layout=None,
    load=load,
    metric="exact match",
    each=lambda question, answer: float(exact_match(answer, question.answers[0])),
)
