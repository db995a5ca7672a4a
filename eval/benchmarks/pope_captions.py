"""POPE's questions (Li et al. 2023) by its own rule, for photos that have captions and no boxes:
what captions name is there, what none of them names is taken not to be."""

import random
from collections import Counter, defaultdict
from pathlib import Path

from eval.benchmark import Benchmark
from eval.benchmarks.captions import captioned
from eval.benchmarks.pope import KINDS, is_right, score
from eval.prompts import short
from eval.question import Question
from vlm.data.things import named_things

MOST = 3
"""Things asked about that are there, of one photo; and as many that are not."""

NAMED_BY = 2
"""Captions that must name a thing: one person may be mistaken."""


def load(folder: Path, split: str) -> list[Question]:
    """For each photo whose captions name things, up to three of them and as many others, chosen in
    three ways: at random; those that most photos have; those that are most often beside what is
    there."""
    photos = captioned(folder, split)
    counts = [Counter(t for text in captions for t in named_things(text)) for _, captions in photos]
    there = [sorted(thing for thing, n in each.items() if n >= NAMED_BY) for each in counts]
    common = Counter(thing for things in there for thing in things)
    beside: dict[str, Counter[str]] = defaultdict(Counter)
    for things in there:
        for thing in things:
            beside[thing].update(other for other in things if other != thing)
    questions = []
    for (path, _), named, things in zip(photos, counts, there, strict=True):
        draw = random.Random(path.name)
        asked = draw.sample(things, min(MOST, len(things)))
        absent = sorted(common.keys() - named.keys())
        draw.shuffle(absent)
        near = sum((beside[thing] for thing in things), Counter())
        chosen = {
            "random": absent,
            "popular": sorted(absent, key=lambda thing: -common[thing]),
            "adversarial": sorted(absent, key=lambda thing: (-near[thing], -common[thing])),
        }
        for kind in KINDS:
            pairs = [(t, "yes") for t in asked] + [(t, "no") for t in chosen[kind][: len(asked)]]
            questions += [
                Question(
                    f"{kind}/{path.name}/{thing}",
                    path,
                    short(f"Is there {article(thing)} {thing} in the image?"),
                    (answer,),
                    {"split": kind},
                )
                for thing, answer in pairs
            ]
    return questions


def article(thing: str) -> str:
    return "an" if thing[0] in "aeiou" else "a"


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
