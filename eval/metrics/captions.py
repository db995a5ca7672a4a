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

ALIKE = "CIDEr-D needs photos with different captions: the idf of a single document is 0"


def score_captions(
    references: Sequence[Sequence[str]],
    predictions: Sequence[str],
    tokenizer: Tokenizer = "python",
) -> Scores:
    """BLEU-1 to -4, ROUGE-L and CIDEr-D of one predicted caption for each photo.

    BLEU (Papineni et al. 2002) is over the corpus, with the closest reference length; ROUGE-L (Lin
    2004) has beta 1.2; CIDEr-D (Vedantam et al. 2015) is times 10, its idf from these references,
    so it is undefined for a single photo. All as `pycocoevalcap` computes them, but in percent.

    The tokenizer `python` is `tokenize`; `ptb` is that of the COCO evaluation, which needs Java,
    and with it comes METEOR (Banerjee and Lavie 2005).

    Returns:
        CIDEr-D in percent overall, each photo's own (0 to 10) in `each`, the others in `more`.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.meteor.meteor import Meteor
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise VLMError("caption metrics need pycocoevalcap: pip install 'vlm[eval]'") from error

    with contextlib.redirect_stdout(io.StringIO()):
        truth = tokens(references, tokenizer)
        if not any(map(any, truth.values())):
            raise DataError("all captions to compare with are blank")
        answers = tokens([[prediction] for prediction in predictions], tokenizer)
        bleu, _ = Bleu(4).compute_score(truth, answers)
        more = {f"bleu_{order}": 100 * float(score) for order, score in enumerate(bleu, start=1)}
        more["rouge_l"] = 100 * float(Rouge().compute_score(truth, answers)[0])
        if tokenizer == "ptb":
            more["meteor"] = 100 * float(Meteor().compute_score(truth, answers)[0])
        cider, each = Cider().compute_score(truth, answers)
    # Else every n-gram is in all documents, and its idf 0.
    defined = len(set(map(tuple, truth.values()))) > 1
    low, high = interval(each)
    return Scores(
        f"CIDEr-D, {VARIANTS[tokenizer]}",
        100 * float(cider) if defined else None,
        (100 * low, 100 * high) if defined else None,
        [float(one) for one in each],
        more=more,
        note="" if defined else ALIKE,
    )


def tokens(photos: Sequence[Sequence[str]], tokenizer: Tokenizer) -> dict[int, list[str]]:
    """Each photo's texts, as words between spaces."""
    if tokenizer == "python":
        return {n: [tokenize(text) for text in texts] for n, texts in enumerate(photos)}
    if shutil.which("java") is None:
        raise VLMError("the ptb tokenizer and METEOR need Java: install it, or take python")
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    captions = {n: [{"caption": text} for text in texts] for n, texts in enumerate(photos)}
    return PTBTokenizer().tokenize(captions)
