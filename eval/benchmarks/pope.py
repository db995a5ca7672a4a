"""POPE (Li et al. 2023): is there such an object on the photo? Three ways to choose what is not."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Hub, Row
from eval.metrics.pope import is_right, score
from eval.prompts import short
from eval.question import Question
from vlm.data.absent import WAYS
from vlm.data.instances import chosen_of, instances_in, is_there, read_instances
from vlm.data.records import read_records


def rows(folder: Path, split: str) -> Iterator[Row]:
    """The questions of all three files, which number theirs alike; where none of them is there,
    those that POPE's rule gives for the boxes of COCO's `instances`."""
    files = {kind: folder / f"coco_pope_{kind}.json" for kind in WAYS}
    found = instances_in(folder)
    if found is not None and not any(file.exists() for file in files.values()):
        yield from rows_by_rule(*found)
        return
    for kind, file in files.items():
        records = read_records(file, ("text", "image", "label"))
        for place, (where, entry, _) in enumerate(records, start=1):
            content = {"question": entry["text"], "answer": entry["label"]}
            content |= {"question_id": place, "category": kind}
            yield Row(where, content, (folder / "val2014", entry["image"]))


def rows_by_rule(file: Path, images: Path) -> Iterator[Row]:
    """Of every photo with boxes, up to three things that are there, and as many that are not, in
    each of the three ways."""
    photos = read_instances(file)
    for photo, chosen in zip(photos, chosen_of(photos), strict=True):
        for kind, name, answer in chosen.asked():
            content = {"question": is_there(name), "answer": answer, "category": kind}
            content |= {"question_id": f"{photo.image}/{name}", "by_rule": True}
            yield Row(photo.where, content, (images, photo.image))


def question(row: dict[str, Any], image: Any) -> Question:
    """A row as it is asked; scored with whether it is by the rule."""
    answer, kind = row["answer"].strip().lower(), row["category"]
    if answer not in ("yes", "no"):
        raise ValueError(f"answer {answer}")
    number = f"{kind}_{row['question_id']}"
    asked = short(row["question"])
    return Question(number, image, asked, (answer,), {"split": kind}, row.get("by_rule"))


POPE = Benchmark(
    name="pope",
    title="POPE, F1 of yes",
    splits=("val",),
    layout="coco_pope_random.json, coco_pope_popular.json, coco_pope_adversarial.json, val2014/; "
    "or any instances*.json of COCO's form and its photos",
    rows=rows,
    question=question,
    each=is_right,
    score_all=score,
    hub=Hub("lmms-lab-encoder/POPE", {"val": "test"}, same_image="image_source"),
)
