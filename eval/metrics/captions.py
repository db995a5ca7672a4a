"""Caption metrics by `pycocoevalcap`, over a tokenizer that needs no Java."""

import contextlib
import io
import shutil
from collections.abc import Sequence
from typing import Literal

from eval.metrics.scores import Scores, interval
from vlm.data.words import tokenize
from vlm.errors import DataError, VLMError

Tokenizer = Literal["python", "ptb"]

VARIANTS = {
    "python": "pycocoevalcap, pure-Python tokenizer after PTB (no Java), idf from these references",
    "ptb": "pycocoevalcap, PTB tokenizer, idf from these references",
}


def score_captions(
    references: Sequence[Sequence[str]],
    predictions: Sequence[str],
    tokenizer: Tokenizer = "python",
) -> Scores:
    """BLEU-1 to -4, ROUGE-L and CIDEr-D of one predicted caption for each photo.

    BLEU (Papineni et al. 2002) is over the corpus, with the closest reference length; ROUGE-L (Lin
    2004) has beta 1.2; CIDEr-D (Vedantam et al. 2015) is times 10, its idf from these references,
    so it is 0 for a single photo. All as `pycocoevalcap` computes them, but in percent.

    The tokenizer `python` is `tokenize`; `ptb` is that of the COCO evaluation, which needs Java,
    and with it comes METEOR (Banerjee and Lavie 2005).

    Returns:
        CIDEr-D in percent overall, each photo's own (0 to 10) in `each`, the others in `more`.

    Raises:
        DataError: no photos, not as many predictions as photos, or a photo without references.
        VLMError: `pycocoevalcap` is not installed, or Java is needed and not there.
    """
    found = _evaluate(references, predictions, tokenizer)
    cider, each = found.pop("cider")
    low, high = interval(each)
    return Scores(
        f"CIDEr-D, {VARIANTS[tokenizer]}",
        100 * cider,
        (100 * low, 100 * high),
        each,
        more={name: 100 * score for name, (score, _) in found.items()},
    )


def _evaluate(
    references: Sequence[Sequence[str]], predictions: Sequence[str], tokenizer: Tokenizer
) -> dict[str, tuple[float, list[float]]]:
    """Each metric: over all photos, and of each."""
    if not predictions:
        raise DataError("no captions to score")
    if len(references) != len(predictions):
        raise DataError(f"{len(predictions)} predictions for {len(references)} photos' references")
    if without := [index for index, captions in enumerate(references) if not captions]:
        raise DataError(f"{len(without)} photos without references, the first is {without[0]}")
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.rouge.rouge import Rouge
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError as error:
        raise VLMError("caption metrics need pycocoevalcap: pip install 'vlm[eval]'") from error

    truth: dict[int, list[str]] = {n: list(captions) for n, captions in enumerate(references)}
    answers = {n: [prediction] for n, prediction in enumerate(predictions)}
    scorers = {"rouge_l": Rouge, "cider": Cider}
    with contextlib.redirect_stdout(io.StringIO()):
        if tokenizer == "python":
            truth, answers = (
                {n: [tokenize(text) for text in texts] for n, texts in each.items()}
                for each in (truth, answers)
            )
        elif shutil.which("java") is None:
            raise VLMError("the ptb tokenizer and METEOR need Java: install it, or take python")
        else:
            truth, answers = (
                PTBTokenizer().tokenize(
                    {n: [{"caption": text} for text in texts] for n, texts in each.items()}
                )
                for each in (truth, answers)
            )
            scorers["meteor"] = Meteor
        bleu, each_bleu = Bleu(4).compute_score(truth, answers)
        found = {
            f"bleu_{order}": (float(score), [float(one) for one in each])
            for order, (score, each) in enumerate(zip(bleu, each_bleu, strict=True), start=1)
        }
        for name, scorer in scorers.items():
            score, each = scorer().compute_score(truth, answers)
            found[name] = (float(score), [float(one) for one in each])
    return found
