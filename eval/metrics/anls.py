"""ANLS (Biten et al. 2019), DocVQA's metric: how near an answer's spelling is to the right one."""

from collections.abc import Sequence

THRESHOLD = 0.5
"""A similarity below this is worth nothing."""


def edit_distance(first: str, second: str) -> int:
    """Insertions, deletions and substitutions between two strings (Levenshtein 1966)."""
    row = list(range(len(second) + 1))
    for place, letter in enumerate(first, start=1):
        previous, row[0] = row[0], place
        for column, other in enumerate(second, start=1):
            cost = previous + (letter != other)
            previous = row[column]
            row[column] = min(cost, row[column] + 1, row[column - 1] + 1)
    return row[-1]


def anls(prediction: str, answers: Sequence[str]) -> float:
    """Of one question, 0 to 1, as DocVQA's evaluation script has it: the best over its answers of
    one minus the edit distance as a share of the longer string, or 0 where that is less than a
    half. Case, the spaces around and how many there are between do not count in the distance; the
    longer string is that of the two as they were given."""
    best = 0.0
    said = " ".join(prediction.lower().split())
    for answer in answers:
        # The script measures capitals: "ß" counts for two.
        longer = max(len(prediction.upper()), len(answer.upper()))
        distance = edit_distance(said, " ".join(answer.lower().split()))
        best = max(best, 1 - distance / longer if longer else 1.0)
    return best if best >= THRESHOLD else 0.0
