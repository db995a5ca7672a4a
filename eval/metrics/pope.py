"""POPE (Li et al. 2023): yes-or-no questions about objects that are or are not on the photo."""

from collections.abc import Sequence
from statistics import fmean

import numpy as np

from eval.metrics.scores import Floats, Scores, interval
from eval.question import Question

NEGATIONS = {"No", "not", "no"}


def says_yes(text: str) -> bool:
    """How POPE's evaluation reads an answer: by what stands in front of the first full stop, no if
    one of its words is `No`, `not` or `no`, and else yes.

    >>> says_yes("There is no dog.")
    False
    >>> says_yes("NO")
    True
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return not NEGATIONS & set(words)


def figures(sums: Floats) -> dict[str, Floats]:
    """Accuracy, precision, recall, F1 of `yes` and the share of answers that are yes, 0 to 1.

    Args:
        sums: true positives, false positives, false negatives and true negatives (..., 4).

    Returns:
        Each (...). What is undefined, such as the precision of who never says yes, is 0.
    """
    hits, wrong, missed, rejected = np.moveaxis(np.asarray(sums, dtype=np.float64), -1, 0)

    def share(part: Floats, whole: Floats) -> Floats:
        return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)

    total = hits + wrong + missed + rejected
    return {
        "accuracy": share(hits + rejected, total),
        "precision": share(hits, hits + wrong),
        "recall": share(hits, hits + missed),
        "f1": share(2 * hits, 2 * hits + wrong + missed),
        "yes_ratio": share(hits + wrong, total),
    }


def is_right(question: Question, answer: str) -> float:
    return float(says_yes(answer) == (question.answers[0] == "yes"))


def score(questions: Sequence[Question], answers: Sequence[str]) -> Scores:
    """F1 of `yes`, the mean of the splits (what LLaVA-1.5 reports), and every figure of each split.
    A question's split is one of its labels; `scored_as` says whether it is not POPE's own."""
    names = list(dict.fromkeys(question.labels["split"] for question in questions))
    splits = [names.index(question.labels["split"]) for question in questions]
    said = np.array([says_yes(answer) for answer in answers])
    truth = np.array([question.answers[0] == "yes" for question in questions])
    counts = np.stack([said & truth, said & ~truth, ~said & truth, ~said & ~truth], axis=1)
    # (n, S, 4): a question counts in its own split alone.
    table = counts[:, None] * np.eye(len(names))[splits][..., None]

    def mean_f1(sums: Floats) -> Floats:
        return figures(sums.reshape(len(sums), len(names), 4))["f1"].mean(axis=1)

    by_split = figures(table.sum(axis=0))
    # Split by split, however the questions came: else resamples would be others.
    low, high = interval(table[np.argsort(splits, kind="stable")], mean_f1)
    by_rule = "; not POPE's own questions, but its rule's" if questions[0].scored_as else ""
    return Scores(
        "POPE F1 of yes, mean of splits; 0 where undefined" + by_rule,
        100 * fmean(by_split["f1"]),
        (100 * low, 100 * high),
        [float(right) for right in said == truth],
        {
            f"per_split_{figure}": dict(zip(names, (100 * column).tolist(), strict=True))
            for figure, column in by_split.items()
        },
        {figure: 100 * fmean(column) for figure, column in by_split.items() if figure != "f1"},
    )
