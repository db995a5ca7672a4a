"""A folder for each benchmark in its official layout, with a question or a few."""

import base64
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from tests import tiny


def write(file: Path, content: Any) -> None:
    """JSON, or text as it is, folders included."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_text(text, encoding="utf-8")


def photo(file: Path) -> None:
    """A tiny photo."""
    file.parent.mkdir(parents=True, exist_ok=True)
    tiny.photo(0).save(file)


def vqa_files(folder: Path, prefix: str) -> None:
    answers = [{"answer": "net", "answer_id": n} for n in range(1, 11)]
    asked = {"question_id": 458752000, "image_id": 458752, "question": "What is this?"}
    kind = {"question_type": "what is this", "answer_type": "other"}
    write(folder / f"{prefix}OpenEnded_mscoco_val2014_questions.json", {"questions": [asked]})
    annotation = {"question_id": 458752000, "answers": answers, **kind}
    write(folder / f"{prefix}mscoco_val2014_annotations.json", {"annotations": [annotation]})
    photo(folder / "val2014" / "COCO_val2014_000000458752.jpg")


def gqa(folder: Path) -> None:
    types = {"structural": "query", "semantic": "attr"}
    entry = {"imageId": "n1", "question": "Which color?", "answer": "red", "types": types}
    write(folder / "testdev_balanced_questions.json", {"201": {**entry, "entailed": []}})
    photo(folder / "images" / "n1.jpg")


def textvqa(folder: Path) -> None:
    entry = {"question_id": 5, "image_id": "i", "question": "what brand?"}
    entry |= {"answers": ["nokia"] * 10}
    write(folder / "TextVQA_0.5.1_val.json", {"data": [entry]})
    ocr = {"image_id": "i", "ocr_tokens": ["NOKIA", "3310"]}
    write(folder / "TextVQA_Rosetta_OCR_v0.2_val.json", {"data": [ocr]})
    photo(folder / "train_images" / "i.jpg")


def vizwiz(folder: Path) -> None:
    answers = [{"answer": "unanswerable", "answer_confidence": "yes"}] * 10
    entry = {"image": "a.jpg", "question": "What is it?", "answers": answers}
    write(folder / "val.json", [{**entry, "answer_type": "unanswerable", "answerable": 0}])
    photo(folder / "val" / "a.jpg")


def pope(folder: Path) -> None:
    for kind in ("random", "popular", "adversarial"):
        lines = [
            {"question_id": n, "image": "a.jpg", "text": f"Is there a {thing}?", "label": label}
            for n, (thing, label) in enumerate([("cat", "yes"), ("dog", "no")], start=1)
        ]
        write(folder / f"coco_pope_{kind}.json", "\n".join(map(json.dumps, lines)))
    photo(folder / "val2014" / "a.jpg")


def scienceqa(folder: Path) -> None:
    problem = {
        "question": "Which is magnetic?",
        "choices": ["iron", "wood"],
        "answer": 0,
        "hint": "Some metals are.",
        "image": "image.png",
        "subject": "natural science",
        "grade": "grade4",
        "split": "test",
    }
    write(folder / "problems.json", {"7": problem, "8": problem | {"image": None}})
    photo(folder / "test" / "7" / "image.png")


def mmbench(folder: Path) -> None:
    file = BytesIO()
    tiny.photo(0).save(file, format="PNG")
    row = {
        "index": "3",
        "question": "What?",
        "hint": "Look.",
        "A": "cat",
        "B": "dog",
        "C": "",
        "D": "",
        "answer": "B",
        "category": "animals",
        "image": base64.b64encode(file.getvalue()).decode(),
    }
    lines = ["\t".join(row), "\t".join(row.values())]
    write(folder / "mmbench_dev_20230712.tsv", "\n".join(lines) + "\n")


def seed(folder: Path) -> None:
    entry = {f"choice_{letter}": f"{letter} thing" for letter in "abcd"}
    entry |= {"question_id": "101", "data_id": "1.jpg", "question": "What?", "answer": "C"}
    entries = [
        {**entry, "data_type": "image", "question_type_id": 1},
        {**entry, "data_type": "video", "question_type_id": 10},
    ]
    types = {"Scene Understanding": 1, "Action Recognition": 10}
    write(folder / "SEED-Bench.json", {"questions": entries, "question_type": types})
    photo(folder / "SEED-Bench-image" / "1.jpg")


def ai2d(folder: Path) -> None:
    write(folder / "ai2d_test_ids.csv", "10\n")
    question = {"answerTexts": ["a", "b", "c", "d"], "correctAnswer": 3, "questionId": "10.png-0"}
    write(folder / "questions" / "10.png.json", {"questions": {"What is eaten?": question}})
    photo(folder / "images" / "10.png")


def aokvqa(folder: Path) -> None:
    entry = {"image_id": 12, "question": "What?", "correct_choice_idx": 1}
    entry |= {"choices": ["one", "two"], "direct_answers": ["a net"] * 3 + ["net"] * 7}
    entries = [
        {**entry, "question_id": f"x{number}", "difficult_direct_answer": number == 2}
        for number in (1, 2)
    ]
    write(folder / "aokvqa_v1p0_val.json", entries)
    photo(folder / "val2017" / "000000000012.jpg")


def docvqa(folder: Path) -> None:
    entry = {"questionId": 1, "question": "Date?", "image": "documents/a.png"}
    write(folder / "val_v1.0_withQT.json", {"data": [{**entry, "answers": ["1/8/93", "1/8"]}]})
    photo(folder / "documents" / "a.png")


def chartqa(folder: Path) -> None:
    for kind in ("human", "augmented"):
        entry = {"imgname": "a.png", "query": "How many?", "label": "12"}
        write(folder / "test" / f"test_{kind}.json", [entry])
    photo(folder / "test" / "png" / "a.png")


def mme(folder: Path) -> None:
    lines = [("cat", "Yes"), ("dog", "No")]
    text = "".join(f"Is there a {thing}? Please answer yes or no.\t{a}\n" for thing, a in lines)
    write(folder / "existence" / "1.txt", text)
    photo(folder / "existence" / "1.jpg")
    write(folder / "artwork" / "questions_answers_YN" / "2.txt", text)
    photo(folder / "artwork" / "images" / "2.jpg")


def karpathy(name: str, **more: str) -> Callable[[Path], None]:
    def build(folder: Path) -> None:
        images = [
            {
                "filename": f"{n}.jpg",
                "split": split,
                "sentences": [{"raw": f"A {thing} runs."}, {"raw": f"A {thing} on grass."}],
                **more,
            }
            for n, (split, thing) in enumerate([("test", "cat"), ("test", "dog"), ("train", "cow")])
        ]
        write(folder / name, {"images": images})

    return build


def captioned(*photos: list[str], splits: tuple[str, ...] = ("test",)) -> Callable[[Path], None]:
    """`captions.jsonl`, the captions of each photo, and the splits in turn."""

    def build(folder: Path) -> None:
        lines = [
            {"image": f"{n}.jpg", "captions": captions, "split": splits[n % len(splits)]}
            for n, captions in enumerate(photos)
        ]
        write(folder / "captions.jsonl", "\n".join(map(json.dumps, lines)))
        for line in lines:
            photo(folder / "images" / line["image"])

    return build


def daquar(folder: Path) -> None:
    entry = {"id": "d1", "image": "images/a.png", "question": "what is on the desk ?"}
    entry |= {"answers": ["lamp", "book"], "split": "test"}
    write(folder / "questions.jsonl", json.dumps(entry))
    photo(folder / "images" / "a.png")


def counts(folder: Path) -> None:
    boxes = [{"image_id": 1, "category_id": n, "bbox": [n, n, 2, 2]} for n in (1, 2, 1)]
    categories = [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
    images = [{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}]
    content = {"images": images, "annotations": boxes, "categories": categories}
    write(folder / "annotations" / "instances_val2017.json", content)
    photo(folder / "val2017" / "a.jpg")


pope_captions = captioned(
    ["A dog and a cat.", "A dog beside a cat.", "A cat."],
    ["A dog on a couch.", "A dog.", "A couch and a dog."],
    ["A dog and a ball.", "A dog plays with a ball."],
    ["An airplane."],
)


def everyday(folder: Path) -> None:
    line = {"image": "a.jpg", "label": "bird", "captions": ["An ibis.", "A bird."]}
    lines = [json.dumps(line | {"split": split}) for split in ("test", "train")]
    write(folder / "labels.jsonl", "\n".join(lines))
    photo(folder / "images" / "a.jpg")


naming = captioned(["A cat.", "A kitten sits."], ["People.", "A crowd."], splits=("val", "test"))

FOLDERS: dict[str, Callable[[Path], None]] = {
    "vqav2": lambda folder: vqa_files(folder, "v2_"),
    "okvqa": lambda folder: vqa_files(folder, ""),
    "gqa": gqa,
    "textvqa": textvqa,
    "textvqa-ocr": textvqa,
    "vizwiz": vizwiz,
    "pope": pope,
    "pope-captions": pope_captions,
    "counts": counts,
    "scienceqa": scienceqa,
    "mmbench": mmbench,
    "seed": seed,
    "ai2d": ai2d,
    "aokvqa": aokvqa,
    "aokvqa-direct": aokvqa,
    "docvqa": docvqa,
    "chartqa": chartqa,
    "mme": mme,
    "coco-captions": karpathy("dataset_coco.json", filepath="val2014"),
    "flickr30k": karpathy("dataset_flickr30k.json"),
    "flickr8k": captioned(["A cat runs."], ["A dog runs."]),
    "daquar": daquar,
    "naming": naming,
    "everyday": everyday,
}
