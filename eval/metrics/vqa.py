"""VQA accuracy: how many of ten people gave the answer.

Two variants, both with one person left out at a time:

- `official`: the evaluation of VQA v2 (Goyal et al. 2017) in its revision of 2021, which does not
  normalise anything where all ten gave the same answer.
- `textvqa`: that of TextVQA (Singh et al. 2019) on EvalAI, which always normalises, and takes
  commas and question marks out first.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

Variant = Literal["official", "textvqa"]

SUBMITTED = "VQA accuracy, official, of answers through the EvalAI processor"
"""What `submitted_accuracy` is called."""

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'

NUMBERS = {
    word: str(number)
    for number, word in enumerate(
        "zero one two three four five six seven eight nine ten".split()  # noqa: SIM905
    )
} | {"none": "0"}

ARTICLES = {"a", "an", "the"}

CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll
    you're you've
""".split()  # noqa: SIM905
"""Contractions that the evaluation knows, each by itself with one of its apostrophes missing."""

CONTRACTIONS = {
    word[:at] + word[at + 1 :]: word
    for word in CONTRACTED
    for at in range(len(word))
    if word[at] == "'"
} | {"somebody'd": "somebodyd"}

_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")


def flatten(text: str) -> str:
    """Line breaks and tabs as spaces, and none around it."""
    return text.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=2**20)
def normalise(text: str) -> str:
    """An answer in the form in which the official evaluation compares it.

    >>> normalise("The cat's on 1,000 t-shirts.")
    "cat's on 1000 tshirts"
    """
    return words(without_punctuation(flatten(text)))


@lru_cache(maxsize=2**20)
def normalise_textvqa(text: str) -> str:
    """An answer in the form in which TextVQA's evaluation compares it."""
    plain = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    return words(without_punctuation(flatten(plain)))


def without_punctuation(text: str) -> str:
    """Marks become spaces, or nothing, where the text has that mark beside a space anywhere, or a
    comma between digits anywhere; full stops that no digit follows go, the first 32 of them (the
    evaluation gives a flag where the count should be)."""
    in_number = _COMMA_IN_NUMBER.search(text) is not None
    plain = text
    for mark in PUNCTUATION:
        if mark in plain:
            beside = f"{mark} " in text or f" {mark}" in text
            plain = plain.replace(mark, "" if in_number or beside else " ")
    return _PERIOD.sub("", plain, count=32)


def words(text: str) -> str:
    """Lower case, number words as digits, no articles, contractions with their apostrophes."""
    numbered = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in numbered if word not in ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str], variant: Variant = "official") -> float:
    """The accuracy of one prediction: the mean, over the people, of min(1, k / 3), k being how many
    of the others gave it; of ten people 0.3, 0.6, 0.9 and 1 for one, two, three and more. At least
    two must have answered."""
    form: Callable[[str], str] = normalise_textvqa if variant == "textvqa" else normalise
    given = [flatten(answer) for answer in answers] if variant == "official" else list(answers)
    if variant == "official" and len(set(given)) == 1:
        form = flatten
    prediction = form(prediction)
    same = sum(form(answer) == prediction for answer in given)
    # Each of those who gave it has one fewer among the others.
    others = len(given) - same
    return (same * min(1, (same - 1) / 3) + others * min(1, same / 3)) / len(given)


def submitted_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """The official accuracy of an answer in TextVQA's form, in which LLaVA submits those to VQA v2
    and VizWiz: else "Yes" would be worth nothing where all ten people said "yes"."""
    return vqa_accuracy(normalise_textvqa(prediction), answers)
