"""A-OKVQA's direct answers: as many people gave, word for word."""

from collections.abc import Sequence

from eval.metrics.scores import Scores, mean_scores


def direct_match(prediction: str, answers: Sequence[str]) -> float:
    """A third for each of the people's answers that a prediction equals, at most 1. As in the
    official code (Schwenk et al. 2022), nothing is normalised: `Net` is not `net`.

    Args:
        prediction: of one question.
        answers: of ten people.
    """
    return min(1.0, sum(prediction == answer for answer in answers) / 3)


def score_direct(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> Scores:
    """The mean of `direct_match`.

    Args:
        predictions: for each question, one at least.
        answers: of each question.
    """
    each = [direct_match(*pair) for pair in zip(predictions, answers, strict=True)]
    return mean_scores("A-OKVQA direct answer accuracy", each)
