"""COCO's instances (Lin et al. 2014), boxes around things, as questions by rule: what is there, how
many of it, and where. Each asks only what the boxes leave no doubt about."""

import random
from collections.abc import Iterator
from itertools import combinations, cycle
from pathlib import Path
from typing import Any, NamedTuple

from vlm.data.absent import MOST, WAYS, Chosen, Known, choose
from vlm.data.records import Record, by_id, is_id, read_lists
from vlm.data.source import DataSource
from vlm.data.things import is_plural, regular_plural, with_article
from vlm.errors import DataError

Box = tuple[float, float, float, float]
"""The upper left corner, x and y, width and height, in pixels."""

COUNTED = 10
"""The most that are asked for: up to ten of a category, COCO has a box for every one, and of more
perhaps one around the crowd (Lin et al. 2014, section 4.3)."""

UNCOUNTED = {"broccoli", "scissors", "skis"}
"""COCO's categories of which a box may hold one, two or a heap."""

IRREGULAR = {
    **{"person": "people", "man": "men", "woman": "women", "child": "children", "mouse": "mice"},
    **{"knife": "knives", "leaf": "leaves", "goose": "geese", "foot": "feet", "tooth": "teeth"},
    **{name: name for name in ("sheep", "fish", "deer", "aircraft")},
}

MIDDLE = 0.1
"""Of a photo's width and height: a box that touches this strip is on neither side."""

SIDES = (
    ("on the left or on the right of the image", "left", "right"),
    ("at the top or at the bottom of the image", "top", "bottom"),
)
"""Along its width and its height: what is asked of it, and the answers."""

BESIDE = (
    ("to the left or to the right of the {}", "left", "right"),
    ("above or below the {}", "above", "below"),
)
"""Likewise of another thing."""


class Objects(NamedTuple):
    """What is on a photo.

    Attributes:
        image: its `file_name`.
        size: width and height in pixels; None where the file does not say.
        boxes: of each category that is there.
        crowded: categories with a box around a crowd, which nobody can count.
    """

    where: str
    image: Any
    size: tuple[float, float] | None
    boxes: dict[str, list[Box]]
    crowded: set[str]

    def counts(self) -> dict[str, int]:
        """How many there are of each category that can be counted."""
        return {
            name: len(boxes)
            for name, boxes in self.boxes.items()
            if len(boxes) <= COUNTED and name not in self.crowded | UNCOUNTED
        }


def read_instances(file: Path) -> list[Objects]:
    """The photos of one JSON object with `images` (id, file_name), `categories` (id, name) and
    `annotations` (image_id, category_id, bbox, and perhaps iscrowd)."""
    images, categories, annotations = read_lists(
        file,
        images=("id", "file_name"),
        categories=("id", "name"),
        annotations=("image_id", "category_id", "bbox"),
    )
    names = {}
    for number, row in by_id(file, (row.content for row in categories), "id").items():
        names[number] = " ".join(str(row["name"]).replace("_", " ").split())
        if not names[number]:
            raise DataError(f"{file}: category {number} has no name")
    photos = {}
    for number, row in by_id(file, (row.content for row in images), "id").items():
        size = (row.get("width"), row.get("height"))
        told = all(type(side) in (int, float) and side > 0 for side in size)
        where = f"{file}, image {number}"
        photos[number] = Objects(where, row["file_name"], size if told else None, {}, set())
    for where, content, _ in annotations:
        for key, known in (("image_id", photos), ("category_id", names)):
            if not is_id(content[key]) or content[key] not in known:
                raise DataError(f"{where}: no {key[:-3]} has the id {content[key]!r}")
        box = content["bbox"]
        kinds = [type(side) for side in box] if isinstance(box, list) else []
        if len(kinds) != 4 or not {int, float}.issuperset(kinds):
            raise DataError(f"{where}: bbox must be four numbers: x, y, width, height")
        photo = photos[content["image_id"]]
        name = names[content["category_id"]]
        photo.boxes.setdefault(name, []).append(tuple(box))
        if content.get("iscrowd"):
            photo.crowded.add(name)
    return list(photos.values())


def instances_in(folder: Path) -> tuple[Path, Path] | None:
    """The `instances*.json` of a folder, or of `annotations/` in it - of several, that of COCO's
    validation images - and the folder of its photos: `val2017/` of `instances_val2017.json`, else
    `images/` or the folder itself; None if there is none."""
    files = [*folder.glob("instances*.json"), *folder.glob("annotations/instances*.json")]
    if not files:
        return None
    file = min(files, key=lambda file: ("val" not in file.name, file))
    for name in (file.stem.removeprefix("instances_"), "images"):
        if (folder / name).is_dir():
            return file, folder / name
    return file, folder


def instance_records(source: DataSource) -> Iterator[Record]:
    """The photos of a file, each with up to three questions of a kind about what is there, as many
    about what is not (one where nothing is), how many there are, one of them about what is not, and
    where."""
    photos = read_instances(Path(source.path))
    for place, (photo, chosen) in enumerate(zip(photos, chosen_of(photos), strict=True)):
        asked = [
            Record(f"question {place}/{n}", {"question": text, "answers": [answer], "kind": kind})
            for n, (text, answer, kind) in enumerate(questions_about(photo, chosen))
        ]
        yield Record(photo.where, ([photo.image], asked))


def chosen_of(photos: list[Objects]) -> Iterator[Chosen]:
    return choose([Known(str(each.image), sorted(each.boxes), each.boxes) for each in photos])


def questions_about(photo: Objects, chosen: Chosen) -> Iterator[tuple[str, str, str]]:
    """Questions about a photo, each with its answer and its kind; what is not there is chosen in
    each of the ways in turn."""
    draw = random.Random(str(photo.image))
    for name in chosen.there:
        yield is_there(name), "yes", "is there"
    absent: list[str] = []
    for _, way in zip(chosen.there or WAYS[:1], cycle(draw.sample(WAYS, len(WAYS)))):
        absent += [name for name in chosen.absent[way] if name not in absent][:1]
    for name in absent:
        yield is_there(name), "no", "is there"
    counts = sorted(photo.counts().items())
    for name, count in draw.sample(counts, min(MOST, len(counts))):
        yield how_many(name), str(count), "how many"
    for name in [name for name in absent if name not in UNCOUNTED][:1]:
        yield how_many(name), "0", "how many"
    places = list(where_is(photo, draw))
    for question, answer in draw.sample(places, min(MOST, len(places))):
        yield question, answer, "where"


def is_there(name: str) -> str:
    return f"{'Are' if is_plural(name) else 'Is'} there {with_article(name)} in the image?"


def how_many(name: str) -> str:
    return f"How many {plural(name)} are in the image?"


def plural(name: str) -> str:
    """Of a category, which may be called in it already."""
    *rest, last = name.split()
    if not is_plural(name):
        last = IRREGULAR.get(last.lower()) or regular_plural(last)
    return " ".join([*rest, last])


def where_is(photo: Objects, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Questions for the side that something lies on, of the image or of something else, with their
    answers: only about categories with a single box. Those of two things neither overlap nor lie
    askew, so that there is one answer."""
    alone = [
        (name, boxes[0])
        for name, boxes in sorted(photo.boxes.items())
        if len(boxes) == 1 and min(boxes[0][2:]) > 0 and name not in photo.crowded
    ]
    draw.shuffle(alone)
    others = [(one, other, BESIDE) for one, other in combinations(alone, 2)]
    if photo.size is not None:
        start = 0.5 - MIDDLE / 2
        strip = tuple(share * side for share in (start, MIDDLE) for side in photo.size)
        others += [(one, ("", strip), SIDES) for one in alone]
    for (name, box), (other, its), ways in others:
        sides = [side_of(box, its, axis) for axis in (0, 1)]
        for side, (asked, *answers) in zip(sides, ways, strict=True):
            if side is not None and (ways is SIDES or None in sides):
                be = "Are" if is_plural(name) else "Is"
                yield f"{be} the {name} {asked.format(other)}?", answers[side]


def side_of(box: Box, other: Box, axis: int) -> int | None:
    """Along the width (0) or the height (1): 0 where a box ends before the other begins, 1 where it
    begins behind it, None where they overlap."""
    if box[axis] + box[axis + 2] <= other[axis]:
        return 0
    return 1 if other[axis] + other[axis + 2] <= box[axis] else None
