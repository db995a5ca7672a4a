"""Captions: COCO (Chen et al. 2015), Flickr30k (Young et al. 2014) in Karpathy's splits, Flickr8k
(Hodosh et al. 2013)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from eval.benchmark import Benchmark
from eval.hub import Row
from eval.metrics.captions import score_captions
from eval.metrics.scores import Scores
from eval.question import Question, texts_in
from vlm.data.read import read_whole
from vlm.data.records import read_records
from vlm.data.source import DataSource

CAPTION = "Provide a one-sentence caption for the provided image."
"""What evaluations of LLaVA-1.5 ask."""

DESCRIBE = "Describe the image."
"""What the embedded model is asked."""


def karpathy(file: str, photos: str, folder: Path, split: str) -> Iterator[Row]:
    """The photos of a split of one of Karpathy's files (Karpathy and Fei-Fei 2015); `photos` is
    their folder, where an entry does not name it."""
    needed = ("filename", "sentences", "split")
    for where, entry, its_split in read_records(folder / file, needed, "images"):
        if its_split == split:
            inner = entry.get("filepath", photos)
            yield Row(where, entry, (folder, f"{inner}/{entry['filename']}"))


def karpathy_question(row: dict[str, Any], image: Path) -> Question:
    captions = {"raw": [sentence["raw"] for sentence in row["sentences"]]}
    return Question(image.name, image, CAPTION, texts_in(captions, "raw"))


def captioned(folder: Path, split: str) -> list[tuple[Path, tuple[str, ...]]]:
    """The photos of a split of `captions.jsonl`, each with its captions."""
    source = DataSource(str(folder / "captions.jsonl"), format="captions", split=split)
    return [(Path(each.photos[0].name), each.answers[0]) for each in read_whole(source)]


def flickr8k(folder: Path, split: str) -> list[Question]:
    return [Question(p.name, p, DESCRIBE, captions) for p, captions in captioned(folder, split)]


def score(questions: Sequence[Question], answers: Sequence[str]) -> Scores:
    return score_captions([question.answers for question in questions], answers)


COCO = Benchmark(
    name="coco-captions",
    title="COCO captions, CIDEr-D",
    splits=("test", "val"),
    layout="Karpathy's dataset_coco.json, train2014/ and val2014/",
    rows=partial(karpathy, "dataset_coco.json", "val2014"),
    question=karpathy_question,
    max_tokens=40,
    score_all=score,
)
FLICKR30K = replace(
    COCO,
    name="flickr30k",
    title="Flickr30k captions, CIDEr-D",
    layout="Karpathy's dataset_flickr30k.json and flickr30k-images/",
    rows=partial(karpathy, "dataset_flickr30k.json", "flickr30k-images"),
)
FLICKR8K = Benchmark(
    name="flickr8k",
    title="Flickr8k captions, CIDEr-D",
    splits=("test", "val"),
    layout="captions.jsonl (image, captions, split) and images/",
    load=flickr8k,
    max_tokens=40,
    score_all=score,
)
