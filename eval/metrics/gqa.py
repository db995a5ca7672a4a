"""GQA (Hudson and Manning 2019): the answer itself, and whether what follows from it is answered
alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from eval.metrics.scores import Scores, mean_scores


@dataclass(frozen=True)
class GqaQuestion:
    """A question of the balanced set.

    Attributes:
        answer: the right one.
        structural: `query`, `verify`, `logical`, `choose` or `compare`.
        semantic: `rel`, `attr`, `obj`, `cat` or `global`.
        entailed: ids of questions whose answers follow from this one's.
    """

    answer: str
    structural: str
    semantic: str | None = None
    entailed: Sequence[str] = field(default_factory=tuple)


def gqa_correct(prediction: str, answer: str) -> bool:
    """Whether they are the same string, once the prediction is in lower case and without its final
    full stop (as LLaVA prepares its answers for the official evaluation)."""
    return prediction.strip().lower().rstrip(".") == answer


def score_gqa(questions: Mapping[str, GqaQuestion], predictions: Mapping[str, str]) -> Scores:
    """Accuracy overall, of binary and open questions, by type, and consistency.

    Consistency is, over the questions that are answered right and entail others, the mean share of
    those that are right too; entailed questions that were not asked are left out, and without any
    the figure is.

    Args:
        questions: by id, one at least.
        predictions: the answer to each of them, by id.
    """
    right = {
        number: gqa_correct(predictions[number], question.answer)
        for number, question in questions.items()
    }
    shares = []
    for number, question in questions.items():
        follow = [right[other] for other in question.entailed if other in right and other != number]
        if right[number] and follow:
            shares.append(fmean(follow))
    asked = questions.values()
    return mean_scores(
        "GQA accuracy",
        [float(right[number]) for number in questions],
        {
            "per_openness": ["open" if q.structural == "query" else "binary" for q in asked],
            "per_structural_type": [question.structural for question in asked],
            "per_semantic_type": [question.semantic for question in asked],
        },
        {"consistency": 100 * fmean(shares)} if shares else None,
    )
