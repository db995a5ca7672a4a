"""VQA v2 (Goyal et al. 2017), and OK-VQA (Marino et al. 2019), which comes in its files."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub, Row
from eval.metrics.vqa import SUBMITTED, submitted_accuracy
from eval.prompts import short
from eval.question import Question, texts_in
from vlm.data.records import is_id, refuse
from vlm.data.vqa import TYPES, read_vqa


def rows(prefix: str, folder: Path, split: str) -> Iterator[Row]:
    """What the official files of a split have, their names begun with `prefix`."""
    questions = folder / f"{prefix}OpenEnded_mscoco_{split}2014_questions.json"
    annotations = folder / f"{prefix}mscoco_{split}2014_annotations.json"
    for where, content, (_, image) in annotated(questions, annotations):
        name = f"COCO_{split}2014_{str(image).zfill(12)}.jpg"
        yield Row(where, content, (folder / f"{split}2014", name))


def annotated(questions: Path, annotations: Path) -> Iterator[Row]:
    """Questions with what people answered, each with the folder and the number of its image."""
    asked, unknown = read_vqa(questions, annotations)
    without = [number for number, row in asked.items() if row["answers"] is None]
    refuse(annotations, without, "no annotation")
    refuse(annotations, unknown, "no such question", "annotations")
    nameless = [number for number, row in asked.items() if not is_id(row["image_id"])]
    refuse(questions, nameless, "'image_id' that is neither number nor text")
    for number, row in asked.items():
        yield Row(f"{annotations}: question {number}", row, (questions.parent, row["image_id"]))


def question(row: dict[str, Any], image: Any) -> Question:
    labels = {name: row[name] for name in TYPES if row.get(name)}
    answers = texts_in(row, least=2)
    return Question(str(row["question_id"]), image, short(row["question"]), answers, labels)


VQA_V2 = Benchmark(
    name="vqav2",
    title="VQA v2, VQA accuracy",
    splits=("val", "train"),
    layout="the official questions, annotations and val2014/",
    rows=partial(rows, "v2_"),
    question=question,
    metric=SUBMITTED,
    each=lambda question, answer: submitted_accuracy(answer, question.answers),
    hub=Hub("lmms-lab-encoder/VQAv2", {"val": "validation"}, same_image="image_id"),
)
OK_VQA = replace(
    VQA_V2,
    name="okvqa",
    title="OK-VQA, VQA accuracy",
    splits=("val",),
    rows=partial(rows, ""),
    hub=Hub("lmms-lab-encoder/OK-VQA", {"val": "val2014"}),
)
