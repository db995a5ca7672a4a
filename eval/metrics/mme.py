"""MME (Fu et al. 2023): accuracy of the questions, and accuracy+ of images whose questions are both
right, added up over the categories."""

from collections import defaultdict
from collections.abc import Sequence

from eval.metrics.scores import Scores, group_means, mean_scores

PERCEPTION = {
    *("existence", "count", "position", "color", "OCR"),
    *("posters", "celebrity", "scene", "landmark", "artwork"),
}
"""The other categories are cognition's."""


def answer_of(text: str) -> str | None:
    """`yes` or `no`, if it is in the first four characters of an answer, in any case, as the
    official script reads it (`snow` is no); None is neither, and wrong."""
    start = text.lower()[:4]
    return next((answer for answer in ("yes", "no") if answer in start), None)


def score_mme(questions: Sequence[tuple[str, str, str]], predictions: Sequence[str]) -> Scores:
    """Accuracy over all questions, and in `more` MME's sums: of each category, accuracy plus
    accuracy+ in percent (0 to 200), added up for perception and for cognition.

    Args:
        questions: category, image and right answer (`yes`, `no`) of each.
        predictions: the answer to each.
    """
    each = [
        float(answer_of(prediction) == answer)
        for (_, _, answer), prediction in zip(questions, predictions, strict=True)
    ]
    images: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (category, image, _), right in zip(questions, each, strict=True):
        images[category, image].append(right)
    accuracy = group_means(each, [category for category, _, _ in questions])
    plus = group_means([min(both) for both in images.values()], [name for name, _ in images])
    sums = {category: accuracy[category] + plus[category] for category in accuracy}
    more = {
        "perception": sum(value for name, value in sums.items() if name in PERCEPTION),
        "cognition": sum(value for name, value in sums.items() if name not in PERCEPTION),
    }
    groups = {"per_category_accuracy": accuracy, "per_category_accuracy_plus": plus}
    return mean_scores("MME accuracy", each, groups, more)
