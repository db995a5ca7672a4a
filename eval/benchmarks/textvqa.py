"""TextVQA (Singh et al. 2019): text on photos, without and with what an OCR system read.

LLaVA-1.5 reports figures with OCR tokens in the prompt; `textvqa` is without, `textvqa-ocr` with.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub, Row
from eval.metrics.vqa import vqa_accuracy
from eval.prompts import short
from eval.question import Question, texts_in
from vlm.data.records import by_id, read_records
from vlm.errors import DataError


def rows(with_ocr: bool, folder: Path, split: str) -> Iterator[Row]:
    """The questions, with ten answers each, and with what OCR read in their photos."""
    read: dict[Any, dict[str, Any]] = {}
    if with_ocr:
        file = folder / f"TextVQA_Rosetta_OCR_v0.2_{split}.json"
        found = read_records(file, ("ocr_tokens",), "data")
        read = by_id(file, (record.content for record in found), "image_id")
    for where, entry, photo in rows_of(folder / f"TextVQA_0.5.1_{split}.json"):
        image = entry["image_id"]
        if with_ocr and image not in read:
            raise DataError(f"{file}: nothing about the image {image}")
        yield Row(where, {**entry, **read.get(image, {})}, photo)


def rows_of(file: Path) -> Iterator[Row]:
    """The questions of a file, beside which is `train_images/`."""
    needed = ("question_id", "question", "image_id", "answers")
    for where, entry, _ in read_records(file, needed, "data"):
        yield Row(where, entry, (file.parent / "train_images", f"{entry['image_id']}.jpg"))


def question(with_ocr: bool, row: dict[str, Any], image: Any) -> Question:
    """A row as it is asked; the model is told what OCR read as LLaVA-1.5 is."""
    text = row["question"]
    if with_ocr:
        text += f"\nReference OCR token: {', '.join(texts_in(row, 'ocr_tokens', 0))}"
    return Question(str(row["question_id"]), image, short(text), texts_in(row, least=2))


TEXT_VQA, TEXT_VQA_OCR = (
    Benchmark(
        name="textvqa" + "-ocr" * with_ocr,
        title=f"TextVQA, {'with' if with_ocr else 'without'} OCR tokens, VQA accuracy",
        splits=("val",),
        layout="TextVQA_0.5.1_val.json, train_images/"
        + " and TextVQA_Rosetta_OCR_v0.2_val.json" * with_ocr,
        rows=partial(rows, with_ocr),
        question=partial(question, with_ocr),
        metric="VQA accuracy, textvqa",
        each=lambda question, answer: vqa_accuracy(answer, question.answers, "textvqa"),
        hub=Hub("lmms-lab-encoder/textvqa", {"val": "validation"}, same_image="image_id"),
    )
    for with_ocr in (False, True)
)
