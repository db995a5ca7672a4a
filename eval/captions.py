"""`vlm eval captions`: caption photos and score the captions against human ones."""

from dataclasses import asdict, dataclass
from json import dumps
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

import vlm
from eval.metrics.captions import VARIANT, score_captions
from vlm.captions import CaptionedImage, read_captions, write_records
from vlm.errors import DataError

QUESTION = "Describe the image."
MAX_TOKENS = 40


class Answerer(Protocol):
    """What is evaluated: a model as `vlm.load` gives it, or anything else that answers."""

    def batch(self, pairs: list[tuple[Path, str]], **generation: Any) -> list[str]:
        """The answers to (photo, question) pairs, in their order."""
        ...


@dataclass(frozen=True)
class CaptionReport:
    """The scores of a model's captions.

    Args:
        metrics: `bleu_1` to `bleu_4`, `rouge_l`, `cider`; see `score_captions`.
        variant: which implementation and tokenizer the metrics are of.
        question: what the model was asked.
        beams: width of the search for each caption; 1 is greedy.
        photos: number of photos captioned.
    """

    metrics: dict[str, float]
    variant: str
    question: str
    beams: int
    photos: int


def answer_all(
    model: Answerer,
    images: list[Path],
    question: str,
    batch_size: int,
    label: str,
    beams: int = 1,
) -> list[str]:
    """The answers, of at most 40 tokens, to one question about each photo.

    Args:
        model: a loaded model.
        images: paths of the photos.
        question: asked of every photo.
        batch_size: photos answered at a time.
        label: text in front of the progress bar, on standard error.
        beams: width of the search; 1 is greedy.

    Raises:
        ConfigError: `beams` is not positive.
        DataError: `batch_size` is not positive.
        ImageError: a photo cannot be read.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1, not {batch_size}")
    starts = range(0, len(images), batch_size)
    answers = []
    for start in track(starts, escape(label), console=Console(stderr=True)):
        pairs = [(image, question) for image in images[start : start + batch_size]]
        answers += model.batch(pairs, max_tokens=MAX_TOKENS, beams=beams)
    return answers


def evaluate_captions(
    model: Answerer,
    items: list[CaptionedImage],
    question: str,
    batch_size: int,
    output: Path | None = None,
    beams: int = 1,
) -> CaptionReport:
    """Caption photos and score the captions.

    Args:
        model: a loaded model.
        items: photos with the human captions to compare with.
        question: asked of every photo.
        batch_size: photos captioned at a time.
        output: folder for `predictions.jsonl` (image, prediction, references); None writes none.
        beams: width of the search for each caption; 1 is greedy.

    Raises:
        ConfigError: `beams` is not positive.
        DataError: no photos, or the predictions cannot be written.
        ImageError: a photo cannot be read.
        VLMError: `pycocoevalcap` is not installed.
    """
    predictions = answer_all(
        model, [item.image for item in items], question, batch_size, "captioning", beams
    )
    if output is not None:
        write_records(
            output / "predictions.jsonl",
            (
                {"image": item.image.name, "prediction": prediction, "references": item.captions}
                for item, prediction in zip(items, predictions, strict=True)
            ),
        )
    metrics = score_captions([item.captions for item in items], predictions)
    return CaptionReport(metrics, VARIANT, question, beams, len(items))


def main(
    data: Path,
    model: str = "embedded",
    split: str = "test",
    question: str = QUESTION,
    beams: int = 1,
    batch_size: int = 16,
    output: Path | None = None,
    limit: int | None = None,
    json: bool = False,
) -> None:
    """Score a model's captions: BLEU-1 to -4, ROUGE-L, CIDEr-D.

    Args:
        data: folder with `captions.jsonl` and the photos.
        model: what to evaluate: `embedded`, or a checkpoint folder.
        split: the split to caption.
        question: asked of every photo.
        beams: width of the search for each caption; 1 takes the most probable word each time.
        batch_size: photos captioned at a time.
        output: folder for `predictions.jsonl`; none is written without it.
        limit: only the first photos of the split; all of them without it.
        json: print JSON instead of a table.
    """
    items = read_captions(data / "captions.jsonl", split)
    if limit is not None:
        if limit < 1:
            raise DataError(f"limit must be at least 1, not {limit}")
        items = items[:limit]
    report = evaluate_captions(vlm.load(model), items, question, batch_size, output, beams)
    if json:
        print(dumps(asdict(report)))
        return
    search = "greedy" if beams == 1 else f"{beams} beams"
    title = f"{report.photos} photos, {split}, {search}: {question}"
    table = Table("metric", "score", title=escape(title))
    for name, score in report.metrics.items():
        table.add_row(name, f"{score:.3f}")
    Console().print(table)
    Console().print(report.variant)
