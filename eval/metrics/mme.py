"""MME (Fu et al. 2023): accuracy of the questions, and accuracy+ of images whose questions are both
right, added up over the categories."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from eval.metrics.scores import Scores, interval

PERCEPTION = {
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
}
"""The other categories are cognition's."""


def answer_of(text: str) -> str | None:
    """`yes` or `no`, if an answer begins with it, in any case, within its first four letters; None
    is neither, and wrong."""
    start = text.strip().lower()[:4]
    if start.startswith("yes"):
        return "yes"
    return "no" if start.startswith("no") else None


def score_mme(questions: Sequence[tuple[str, str, str]], predictions: Sequence[str]) -> Scores:
    """Accuracy over all questions, and in `more` MME's sums: of each category, accuracy plus
    accuracy+ in percent (0 to 200), added up for perception and for cognition.

    Args:
        questions: category, image and right answer (`yes`, `no`) of each.
        predictions: the answer to each.
    """
    each = []
    images: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for (category, image, answer), prediction in zip(questions, predictions, strict=True):
        right = answer_of(prediction) == answer
        each.append(float(right))
        images[category][image].append(right)
    accuracy = {
        category: 100 * fmean(right for both in members.values() for right in both)
        for category, members in sorted(images.items())
    }
    plus = {
        category: 100 * fmean(all(both) for both in members.values())
        for category, members in sorted(images.items())
    }
    sums = {category: accuracy[category] + plus[category] for category in accuracy}
    low, high = interval(each)
    return Scores(
        "MME accuracy",
        100 * fmean(each),
        (100 * low, 100 * high),
        each,
        {"per_category_accuracy": accuracy, "per_category_accuracy_plus": plus},
        {
            "perception": sum(value for name, value in sums.items() if name in PERCEPTION),
            "cognition": sum(value for name, value in sums.items() if name not in PERCEPTION),
        },
    )
