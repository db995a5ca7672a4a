"""TextVQA (Singh et al. 2019): text on photos, without and with what an OCR system read.

LLaVA-1.5 reports figures with OCR tokens in the prompt; `textvqa` is without, `textvqa-ocr` with.
"""

from functools import partial
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub
from eval.metrics.scores import Scores
from eval.metrics.vqa import score_vqa, vqa_accuracy
from eval.official import by_id, entries, texts
from eval.prompts import SHORT_ANSWER
from eval.question import Question, RowImage
from vlm.errors import DataError

FILES = {"val": ("TextVQA_0.5.1_val.json", "TextVQA_Rosetta_OCR_v0.2_val.json")}


def load(with_ocr: bool, folder: Path, split: str) -> list[Question]:
    """The questions, with ten answers each.

    Args:
        with_ocr: tell the model what OCR read, as LLaVA-1.5 does.
        folder: with the official files and `train_images/`.
        split: one of `FILES`.

    Raises:
        DataError: files that are missing or broken.
    """
    name, ocr_name = FILES[split]
    file = folder / name
    read = {}
    if with_ocr:
        listed = by_id(folder / ocr_name, entries(folder / ocr_name, "data"), "image_id")
        read = {
            image: texts(folder / ocr_name, image, entry, "ocr_tokens", none_is_fine=True)
            for image, entry in listed.items()
        }
    questions = []
    for number, entry in by_id(file, entries(file, "data"), "question_id").items():
        text, image = entry.get("question"), entry.get("image_id")
        if not isinstance(text, str) or not isinstance(image, str):
            raise DataError(f"{file}: {number} needs texts 'question' and 'image_id'")
        lines = [text]
        if with_ocr:
            if image not in read:
                raise DataError(f"{folder / ocr_name}: nothing about the image {image}")
            lines.append(f"Reference OCR token: {', '.join(read[image])}")
        lines.append(SHORT_ANSWER)
        photo = folder / "train_images" / f"{image}.jpg"
        answers = tuple(texts(file, number, entry))
        questions.append(Question(str(number), photo, "\n".join(lines), answers))
    return questions


def row_question(with_ocr: bool, row: dict[str, Any], image: RowImage) -> Question:
    """A row on the hub."""
    ocr = [f"Reference OCR token: {', '.join(row['ocr_tokens'])}"] if with_ocr else []
    text = "\n".join([row["question"], *ocr, SHORT_ANSWER])
    return Question(str(row["question_id"]), image, text, tuple(row["answers"]))


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """VQA accuracy in TextVQA's variant."""
    return score_vqa(predictions, [question.answers for question in questions], variant="textvqa")


TEXT_VQA, TEXT_VQA_OCR = (
    Benchmark(
        name="textvqa" + "-ocr" * with_ocr,
        title=f"TextVQA, {'with' if with_ocr else 'without'} OCR tokens, VQA accuracy",
        splits=tuple(FILES),
        layout="TextVQA_0.5.1_val.json, train_images/"
        + " and TextVQA_Rosetta_OCR_v0.2_val.json" * with_ocr,
        load=partial(load, with_ocr),
        score=score,
        max_tokens=16,
        each=lambda question, answer: vqa_accuracy(answer, question.answers, "textvqa"),
        hub=Hub(
            "lmms-lab-encoder/textvqa",
            {"val": "validation"},
            partial(row_question, with_ocr),
            same_image="image_id",
        ),
    )
    for with_ocr in (False, True)
)
