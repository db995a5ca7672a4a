"""Captions: COCO (Chen et al. 2015), Flickr30k (Young et al. 2014) in Karpathy's splits, Flickr8k
(Hodosh et al. 2013)."""

from collections.abc import Callable
from pathlib import Path

from eval.benchmark import Benchmark
from eval.metrics.captions import score_captions
from eval.metrics.scores import Scores
from eval.official import entries
from eval.question import Question
from vlm.data.captioned import read_captions
from vlm.errors import DataError

CAPTION = "Provide a one-sentence caption for the provided image."
"""What evaluations of LLaVA-1.5 ask."""

DESCRIBE = "Describe the image."
"""What the embedded model is asked."""


def karpathy(file_name: str, photos: str, folder: Path, split: str) -> list[Question]:
    """The photos of a split of one of Karpathy's files (Karpathy and Fei-Fei 2015).

    Args:
        file_name: of the file.
        photos: the folder of the photos, where a photo's entry does not name it.
        folder: where both are.
        split: `test` or `val`.

    Raises:
        DataError: a file that is missing or broken.
    """
    file = folder / file_name
    questions = []
    for place, entry in enumerate(entries(file, "images"), start=1):
        if entry.get("split") != split:
            continue
        name, inner = entry.get("filename"), entry.get("filepath", photos)
        sentences = entry.get("sentences")
        whole = isinstance(sentences, list) and sentences and isinstance(name, str)
        captions = [s.get("raw") for s in sentences if isinstance(s, dict)] if whole else []
        if not captions or not all(isinstance(text, str) for text in captions) or "/" in name:
            raise DataError(f"{file}: image {place} needs 'filename' and 'sentences' with 'raw'")
        questions.append(Question(name, folder / inner / name, CAPTION, tuple(captions)))
    return questions


def flickr8k(folder: Path, split: str) -> list[Question]:
    """The photos of a split of `captions.jsonl`.

    Raises:
        DataError: a file that is missing or broken.
    """
    return [
        Question(item.image.name, item.image, DESCRIBE, tuple(item.captions))
        for item in read_captions(folder / "captions.jsonl", split)
    ]


def score(questions: list[Question], predictions: list[str]) -> Scores:
    """CIDEr-D, BLEU and ROUGE-L."""
    return score_captions([question.answers for question in questions], predictions)


def benchmark(
    name: str,
    title: str,
    layout: str,
    load: Callable[[Path, str], list[Question]],
) -> Benchmark:
    """A benchmark of captions."""
    return Benchmark(
        name=name,
        title=f"{title} captions, CIDEr-D",
        splits=("test", "val"),
        layout=layout,
        load=load,
        score=score,
        max_tokens=40,
    )


COCO = benchmark(
    "coco-captions",
    "COCO",
    "Karpathy's dataset_coco.json, train2014/ and val2014/",
    lambda folder, split: karpathy("dataset_coco.json", "val2014", folder, split),
)
FLICKR30K = benchmark(
    "flickr30k",
    "Flickr30k",
    "Karpathy's dataset_flickr30k.json and flickr30k-images/",
    lambda folder, split: karpathy("dataset_flickr30k.json", "flickr30k-images", folder, split),
)
FLICKR8K = benchmark(
    "flickr8k", "Flickr8k", "captions.jsonl (image, captions, split) and images/", flickr8k
)
