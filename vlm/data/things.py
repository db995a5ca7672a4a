"""Things: which everyday object a photo mainly shows, read off its human captions. Training derives
names from it, evaluation the right answers; each for photos of its own."""

import json
import re
from collections import Counter
from pathlib import Path

THINGS: dict[str, list[str]] = json.loads(
    Path(__file__).with_name("things.json").read_text(encoding="utf-8")
)
"""77 of COCO's 80 categories (Lin et al. 2014), each with the words that name it: synonyms, young,
male or female animals, and what everybody would call by the category. A phrase that ends in one of
the words (park bench) needs no entry. Kinds of food never stand for another food, nor an activity
(surfing) for its equipment. Left out are person and dining table, which are the background of most
photos, and orange, which is a colour in most captions."""

# Phrases that hold one of those words and are about something else.
OTHER = (
    *("train station", "train track", "bus stop", "bus station", "car park", "jet ski"),
    *("truck bed", "flower bed", "bird house", "bird cage", "bird bath", "dog house", "bike rack"),
    *("toilet paper", "pizza oven", "pizza cutter", "pizza box", "oven mitt", "book bag"),
    *("phone booth", "phone call", "rocking horse", "mickey mouse", "cup holder", "carrot cake"),
)


def regular_plural(word: str) -> str:
    if word.endswith("y") and word[-2:-1] not in "aeou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "ch", "sh")) else "s")


_THING_OF = {
    form: thing
    for thing, words in THINGS.items()
    for word in words
    for form in (word, regular_plural(word))
}
_OTHER = {form for phrase in OTHER for form in (phrase, regular_plural(phrase))}
# Longest first, so that a hot dog is no dog and a teddy bear no bear.
_PHRASES = sorted({*_THING_OF, *_OTHER}, key=len, reverse=True)
_PHRASE = re.compile(r"\b(?:" + "|".join(map(re.escape, _PHRASES)) + r")\b")


def article(noun: str) -> str:
    return "an" if noun[:1].lower() in set("aeiou") else "a"


def is_plural(name: str) -> bool:
    """Whether a category is called in the plural: skis; but neither glass nor bus."""
    return name.lower().endswith("s") and not name.lower().endswith(("ss", "us"))


def with_article(name: str) -> str:
    return name if is_plural(name) else f"{article(name)} {name}"


def class_text(name: str) -> str:
    """What a photo of a class is called, in training and in zero-shot classification."""
    return f"a photo of {with_article(name)}"


def named_things(text: str) -> list[str]:
    """The things that a text names, each once, in the order of their first mention."""
    plain = re.sub(r"[-\s]+", " ", text.lower())
    found = (_THING_OF.get(phrase) for phrase in _PHRASE.findall(plain))
    return list(dict.fromkeys(thing for thing in found if thing))


def main_thing(captions: list[str]) -> str | None:
    """The main thing of a photo: the one that most of its human captions name; of equals, the one
    that more captions name first. None if no thing is named in more than half of the captions, or
    if two are equal in both counts."""
    things = [named_things(caption) for caption in captions]
    named = Counter(thing for caption in things for thing in caption)
    first = Counter(caption[0] for caption in things if caption)
    ranks = sorted(((named[thing], first[thing], thing) for thing in named), reverse=True)
    if not ranks or 2 * ranks[0][0] <= len(captions):
        return None
    if len(ranks) > 1 and ranks[0][:2] == ranks[1][:2]:
        return None
    return ranks[0][2]
