"""The data of the embedded model's recipe, made of unpacked data sets: captions as one would write
them, questions by rule from captions and boxes, names; and photos that are kept out."""

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from shutil import copyfile
from typing import Any

import vlm
from train.embedded.replay import MAX_TOKENS, read_lines, replay
from train.embedded.tidy import tidy
from vlm.config import ModelConfig
from vlm.data.absent import Known, choose
from vlm.data.easy_vqa import read_easy_vqa
from vlm.data.instances import Objects, is_there, read_instances
from vlm.data.things import named_things, with_article
from vlm.files import json_lines, read_json, write_file, write_rows

TEST, VALIDATION = 400, 100
"""Photos of COCO without captions that are kept out, by the digest of their ids."""

CLASSES = 50
"""Of ImageNet's, whose photos are kept out."""

NAMED_BY = 2
"""Captions that must name a thing, before a question takes it to be there."""

LARGE = 0.15
"""Share of a photo that its main thing takes up at least."""

MOST = 30
"""Photos that one name is learned from."""

Row = dict[str, Any]


def prepare(folder: Path) -> None:
    """Writes `prepared/` into the folder of the data sets; what is there already is written over,
    but for the answers of the language model, which take minutes."""
    into = folder / "prepared"
    into.mkdir(exist_ok=True)
    for name in ("flickr8k", "coco_small"):
        rows = read(folder / name / "captions.jsonl")
        write_rows(into / f"{name}.jsonl", [row | {"captions": told(row)} for row in rows])
    write_rows(into / "there.jsonl", there(read(folder / "flickr8k" / "captions.jsonl")))
    boxes = read_json(folder / "coco_unlabelled" / "instances.json")
    ids = sorted((image["id"] for image in boxes["images"]), key=digest)
    kept_out = TEST + VALIDATION
    parts = {"test": ids[:TEST], "val": ids[TEST:kept_out], "train": ids[kept_out:]}
    for part, own in parts.items():
        write_part(boxes, own, into / f"coco_unlabelled_{part}.json")
    boxes = read_json(folder / "coco_small" / "instances.json")
    trained = {
        row["image"]
        for row in read(folder / "coco_small" / "captions.jsonl")
        if row["split"] == "train"
    }
    own = [image["id"] for image in boxes["images"] if image["file_name"] in trained]
    write_part(boxes, own, into / "coco_small_train.json")
    for name in ("coco_unlabelled", "coco_small"):
        file = into / f"{name}_train.json"
        write_rows(into / f"{name}_names.jsonl", names(read_instances(file)))
    labels = sorted(
        read(folder / "imagenet_samples" / "labels.jsonl"), key=lambda row: digest(row["wordnet"])
    )
    named = [
        {"image": row["image"], "captions": [sentence(row["label"])]}
        | {"split": "val" if place < CLASSES else "train"}
        for place, row in enumerate(labels)
    ]
    write_rows(into / "imagenet_samples.jsonl", named)
    write_shapes(into / "easy_vqa")
    if not (into / "replay.jsonl").exists():
        lines = read_lines(Path(__file__).with_name("replay_questions.txt"))
        model = vlm.build(ModelConfig()).eval()
        write_rows(into / "replay.jsonl", replay(model, lines, MAX_TOKENS))


def read(file: Path) -> list[Row]:
    return [row for _, row in json_lines(file)]


def told(row: Row) -> list[str]:
    return [tidy(caption) for caption in row["captions"]]


def sentence(name: str) -> str:
    named = with_article(name)
    return f"{named[0].upper()}{named[1:]}."


def digest(key: str | int) -> str:
    return hashlib.sha256(str(key).encode()).hexdigest()


def there(rows: list[Row]) -> Iterator[Row]:
    """What POPE's rule asks of captioned photos, in one of its three ways each, which is drawn."""
    known = []
    for row in rows:
        named = Counter(thing for text in row["captions"] for thing in named_things(text))
        sure = sorted(thing for thing, count in named.items() if count >= NAMED_BY)
        known.append(Known(row["image"], sure, named.keys()))
    for row, chosen in zip(rows, choose(known), strict=True):
        way = random.Random(row["image"]).choice(list(chosen.absent))
        for kind, thing, answer in chosen.asked():
            if kind == way:
                question = {"question": is_there(thing), "answers": [answer]}
                yield {"image": row["image"], "split": row["split"]} | question


def names(photos: Iterable[Objects]) -> Iterator[Row]:
    """Photos whose main thing is clear: the largest by far, and no person."""
    told: Counter[str] = Counter()
    for photo in photos:
        if photo.size is None:
            continue
        whole = photo.size[0] * photo.size[1]
        areas = {n: sum(w * h for *_, w, h in boxes) / whole for n, boxes in photo.boxes.items()}
        (name, area), *others = sorted(areas.items(), key=lambda each: -each[1]) or [("", 0.0)]
        clear = area >= LARGE and all(area >= 2 * other for _, other in others)
        if clear and name not in ("person", "dining table") and told[name] < MOST:
            told[name] += 1
            yield {"image": photo.image, "captions": [sentence(name)]}


def write_part(instances: Row, ids: Iterable[int], file: Path) -> None:
    """The photos of these ids, with their boxes, in COCO's form."""
    chosen = set(ids)
    part = {
        "images": [image for image in instances["images"] if image["id"] in chosen],
        "annotations": [each for each in instances["annotations"] if each["image_id"] in chosen],
    }
    write_file(file, json.dumps(instances | part))


def write_shapes(into: Path) -> None:
    """easy-VQA's training images and questions, a twentieth of the images for validation."""
    (into / "images").mkdir(parents=True, exist_ok=True)
    rows, images = [], {}
    for image, question, answer in read_easy_vqa("train"):
        images[image.name] = image
        split = "val" if int(digest(image.name), 16) % 20 == 0 else "train"
        rows.append({"image": image.name, "question": question, "answers": [answer]})
        rows[-1]["split"] = split
    for name, image in images.items():
        copyfile(image, into / "images" / name)
    write_rows(into / "questions.jsonl", rows)
