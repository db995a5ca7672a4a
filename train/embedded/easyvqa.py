"""The easy-VQA data set (Victor Zhou 2019) as photos and a questions file.

4000 + 1000 images of one coloured shape each, with 38575 + 9673 questions that have 13 answers; the
PyPI package `easy-vqa` holds all of it."""

from functools import partial
from pathlib import Path
from shutil import copyfile

from vlm import cli
from vlm.data.easy_vqa import read_easy_vqa
from vlm.files import disk, write_rows

SHAPES = {"circle", "rectangle", "triangle"}


def kind_of(answer: str) -> str:
    """What a question asks for, by its answer: `yes/no`, `shape` or `colour`."""
    if answer in ("yes", "no"):
        return "yes/no"
    return "shape" if answer in SHAPES else "colour"


def main(folder: Path) -> None:
    """Unpack easy-VQA: `images/` and `questions.jsonl`, with its own splits `train` and `test`.

    Args:
        folder: where they go.
    """
    records, images = [], {}
    for split in ("train", "test"):
        for image, question, answer in read_easy_vqa(split):
            name = f"{split}_{image.name}"
            images[name] = image
            records.append(
                {
                    "image": name,
                    "question": question,
                    "answers": [answer],
                    "kind": kind_of(answer),
                    "split": split,
                }
            )
    with disk(f"cannot write {folder}"):
        (folder / "images").mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            copyfile(image, folder / "images" / name)
    write_rows(folder / "questions.jsonl", records)


if __name__ == "__main__":
    raise SystemExit(cli.main(command=partial(cli.run, "python -m train.embedded.easyvqa", main)))
