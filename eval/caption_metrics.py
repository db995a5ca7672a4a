"""Caption metrics by `pycocoevalcap`, over a tokenizer that needs no Java."""

import contextlib
import io
import re

from vlm.errors import DataError, VLMError

VARIANT = "pycocoevalcap, pure-Python tokenizer after PTB (no Java), idf from these references"

_TOKEN = re.compile(
    r"(?:[^\W\d_]\.){2,}"  # initials: u.s.
    r"|'(?:s|m|d|ll|re|ve)\b"
    r"|\w+(?:(?:[-'/.]|(?<=\d)[,:](?=\d))\w+)*"
    r"|[^\w\s]"
)
_CLITIC = re.compile(r"(?<=.)(n't|'(?:s|m|d|ll|re|ve))$")
_SPLIT = {"cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na"}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_REMOVED = set("'`\".?!,:;-–—…“”‘")  # noqa: RUF001


def tokenize(caption: str) -> str:
    """Lower-case words joined by single spaces, punctuation removed.

    A pure-Python stand-in for the Stanford PTB tokenizer of the COCO caption evaluation, with its
    list of removed punctuation and its quirks: hyphens and slashes stay inside words, clitics are
    split off ("dog's" gives "dog 's", "isn't" gives "is n't"), a bracket is a word (`-lrb-`). The
    differences left are rare ones, such as abbreviations, which lose their final period here.
    """
    text = caption.lower().replace("’", "'")  # noqa: RUF001
    words = []
    for token in _TOKEN.findall(text):
        word = _SPLIT.get(token) or _BRACKETS.get(token) or _CLITIC.sub(r" \1", token)
        if word not in _REMOVED:
            words.append(word)
    return " ".join(words)


def score_captions(references: list[list[str]], predictions: list[str]) -> dict[str, float]:
    """BLEU-1 to -4, ROUGE-L and CIDEr-D of one predicted caption for each photo.

    BLEU (Papineni et al. 2002) is over the corpus, with the closest reference length; ROUGE-L (Lin
    2004) has beta 1.2; CIDEr-D (Vedantam et al. 2015) is times 10, its idf from these references,
    so it is 0 for a single photo. All as `pycocoevalcap` computes them, on words from `tokenize`.

    Args:
        references: human captions, one or more for each photo.
        predictions: one caption for each photo.

    Returns:
        `bleu_1`, `bleu_2`, `bleu_3`, `bleu_4`, `rouge_l` (0 to 1) and `cider` (0 to 10).

    Raises:
        DataError: no photos, not as many predictions as photos, or a photo without references.
        VLMError: `pycocoevalcap` is not installed.
    """
    if not predictions:
        raise DataError("no captions to score")
    if len(references) != len(predictions):
        raise DataError(f"{len(predictions)} predictions for {len(references)} photos' references")
    if without := [index for index, captions in enumerate(references) if not captions]:
        raise DataError(f"{len(without)} photos without references, the first is {without[0]}")
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise VLMError("caption metrics need pycocoevalcap: pip install 'vlm[dev]'") from error

    truth = {
        index: [tokenize(caption) for caption in captions]
        for index, captions in enumerate(references)
    }
    answers = {index: [tokenize(prediction)] for index, prediction in enumerate(predictions)}
    with contextlib.redirect_stdout(io.StringIO()):
        bleu = Bleu(4).compute_score(truth, answers)[0]
        rouge = Rouge().compute_score(truth, answers)[0]
        cider = Cider().compute_score(truth, answers)[0]
    scores = {f"bleu_{order}": float(score) for order, score in enumerate(bleu, start=1)}
    return {**scores, "rouge_l": float(rouge), "cider": float(cider)}
