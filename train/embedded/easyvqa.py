"""`vlm easyvqa`: the easy-VQA data set (Victor Zhou 2019) as photos and a questions file.

4000 + 1000 images of one coloured shape each, with 38575 + 9673 questions that have 13 answers; the
PyPI package `easy-vqa` holds all of it."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from shutil import copyfile
from typing import Any

from vlm import cli
from vlm.data.captioned import write_records
from vlm.errors import DataError, VLMError

SHAPES = {"circle", "rectangle", "triangle"}

Questions = tuple[list[str], list[str], list[int]]
"""Questions, answers and numbers of the images, as the package gives them."""


def kind_of(answer: str) -> str:
    """What a question asks for, by its answer: `yes/no`, `shape` or `colour`."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in SHAPES else "colour"


def question_records(split: str, questions: Questions) -> Iterator[dict[str, Any]]:
    """The lines of the questions file for one split."""
    for text, answer, number in zip(*questions, strict=True):
        yield {
            "image": f"{split}_{number}.png",
            "question": text,
            "answers": [answer],
            "kind": kind_of(answer),
            "split": split,
        }


def main(folder: Path) -> None:
    """Unpack easy-VQA: `images/` and `questions.jsonl`, with its own splits `train` and `test`.

    Args:
        folder: where they go.
    """
    try:
        import easy_vqa
    except ImportError as error:
        raise VLMError(
            "easy-VQA needs the package easy-vqa: install it with pip install 'vlm[data]'"
        ) from error
    parts: dict[str, tuple[Callable[[], Questions], Callable[[], dict[int, str]]]] = {
        "train": (easy_vqa.get_train_questions, easy_vqa.get_train_image_paths),
        "test": (easy_vqa.get_test_questions, easy_vqa.get_test_image_paths),
    }
    records: list[dict[str, Any]] = []
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for split, (questions, images) in parts.items():
            for number, image in images().items():
                copyfile(image, folder / "images" / f"{split}_{number}.png")
            records += question_records(split, questions())
    except OSError as error:
        raise DataError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    write_records(folder / "questions.jsonl", records)


if __name__ == "__main__":
    raise SystemExit(cli.main(command=partial(cli.run, "python -m train.embedded.easyvqa", main)))
