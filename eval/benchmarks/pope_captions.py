"""POPE's questions (Li et al. 2023) by its own rule, for photos that have captions and no boxes:
what captions name is there, what none of them names is taken not to be."""

from collections import Counter
from pathlib import Path

from eval.benchmark import Benchmark
from eval.benchmarks.captions import captioned
from eval.metrics.pope import is_right, score
from eval.prompts import short
from eval.question import Question
from vlm.data.absent import Known, choose
from vlm.data.things import article, named_things

NAMED_BY = 2
"""Captions that must name a thing: one person may be mistaken."""


def load(folder: Path, split: str) -> list[Question]:
    """For each photo whose captions name things, up to three of them and as many others, chosen in
    three ways."""
    photos = captioned(folder, split)
    known = []
    for path, captions in photos:
        named = Counter(thing for text in captions for thing in named_things(text))
        there = sorted(thing for thing, count in named.items() if count >= NAMED_BY)
        known.append(Known(path.name, there, named.keys()))
    return [
        Question(
            f"{kind}/{path.name}/{thing}",
            path,
            short(f"Is there {article(thing)} {thing} in the image?"),
            (answer,),
            {"split": kind},
        )
        for (path, _), chosen in zip(photos, choose(known), strict=True)
        for kind, thing, answer in chosen.asked()
    ]


POPE_CAPTIONS = Benchmark(
    name="pope-captions",
    title="POPE by its rule from captions, F1 of yes",
    splits=("test", "val"),
    layout="captions.jsonl (image, captions, split) and images/",
    load=load,
    each=is_right,
    score_all=score,
    folder="flickr8k",
)
