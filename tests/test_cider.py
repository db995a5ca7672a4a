"""The reward: CIDEr-D as pycocoevalcap computes it, caption by caption."""

import pytest
from pycocoevalcap.cider.cider_scorer import CiderScorer

from train.cider import END, Cider
from vlm.data.words import tokenize

REFERENCES = [
    ["A dog runs on the grass .", "A brown dog is running .", "Dog"],
    ["Two men play football .", "Men in red shirts kick a ball ."],
    ["A girl in a red dress .", "The girl's dress is red , and she smiles ."],
    ["A dog and a girl play on the beach ."],
]
CAPTIONS = [
    "A dog runs on the beach.",
    "Two men in red kick a ball, and two men in red shirts.",
    "A girl.",
    "zebra",
]


def of_the_library(captions: list[str], ended: bool) -> list[float]:
    scorer = CiderScorer()
    for caption, references in zip(captions, REFERENCES, strict=True):
        end = f" {END}" if ended else ""
        scorer += (tokenize(caption) + end, [f"{tokenize(text)} {END}" for text in references])
    return list(scorer.compute_score()[1])


@pytest.mark.parametrize("ended", [True, False])
def test_equals_pycocoevalcap(ended: bool) -> None:
    cider = Cider(REFERENCES)
    scores = [
        cider(caption, references, ended)
        for caption, references in zip(CAPTIONS, REFERENCES, strict=True)
    ]
    assert scores == pytest.approx(of_the_library(CAPTIONS, ended), rel=1e-9)
    assert scores[0] > 1


def test_a_reference_is_the_best_caption() -> None:
    cider = Cider(REFERENCES)
    assert cider(REFERENCES[3][0], REFERENCES[3]) == pytest.approx(10)
    assert cider("", REFERENCES[3], ended=False) == 0


def test_a_caption_that_breaks_off_is_worth_less() -> None:
    cider = Cider(REFERENCES)
    caption = "Two men play football"
    assert cider(caption, REFERENCES[1], ended=False) < cider(caption, REFERENCES[1])
