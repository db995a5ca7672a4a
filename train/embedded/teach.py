"""Answers to questions that nobody asked of a photo, for a model to learn from beside the few that
somebody did.

Small networks (see stacked_attention.py) learn from the questions that have answers, some of them
without looking at the photo. What they hold together to be the answer is a better label than any of
them gives: knowledge distillation (Hinton et al. 2015) into a model that reads and sees otherwise.
"""

import random
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train.embedded.captioned import photo_of
from train.embedded.probe import patch_tokens
from train.embedded.stacked_attention import UNKNOWN, fit_several, probabilities
from vlm import cli
from vlm.config import VisionConfig
from vlm.data.records import read_records
from vlm.data.sample import SkipSample, text_of, texts_of
from vlm.errors import DataError
from vlm.files import write_rows
from vlm.tower import VisionTower
from vlm.vision import load_vision

WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Asked:
    """A question about a photo.

    Args:
        image: as the file names it.
        path: of the photo.
        question: its text.
        answers: all of them are right together, in this order.
    """

    image: str
    path: Path
    question: str
    answers: tuple[str, ...]


def read_questions(file: Path, split: str) -> list[Asked]:
    """The questions of one split of a JSON-lines file (`image`, `question`, `answers`, `split`).

    Raises:
        DataError: a line without these, a photo that is not there, or no question in that split.
    """
    asked, splits = [], set()
    for record in read_records(file, required=("image", "question", "answers", "split")):
        splits.add(str(record.split))
        if record.split != split:
            continue
        content = record.content
        try:
            question = text_of(content["question"], "question")
            answers, dropped = texts_of(content["answers"], "answer")
            if dropped:
                raise SkipSample(dropped[0])
        except SkipSample as error:
            raise DataError(str(error.at(record.where))) from error
        asked.append(Asked(content["image"], photo_of(file, record), question, answers))
    if not asked:
        there = ", ".join(sorted(splits))
        raise DataError(f"{file}: no question in split '{split}'; there are: {there}")
    return asked


def words_of(question: str) -> list[str]:
    """`What is on the desk ?` -> `["what", "is", "on", "the", "desk"]`."""
    return WORD.findall(question.lower())


def word_ids(questions: list[str], vocabulary: dict[str, int]) -> Tensor:
    """Word ids (B, L), int64, padded behind with zeros; what has no word is one unknown word."""
    rows = [
        torch.tensor([vocabulary.get(word, UNKNOWN) for word in words_of(question)] or [UNKNOWN])
        for question in questions
    ]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def draw_pairs(
    asked: list[Asked], per_photo: int, generator: random.Random
) -> list[tuple[str, str]]:
    """For each photo, questions that were asked of others and not of it, each once; the more often
    one was asked, the likelier it is.

    Returns:
        Pairs of image and question.
    """
    of_photo: dict[str, set[str]] = {}
    for item in asked:
        of_photo.setdefault(item.image, set()).add(item.question)
    texts = [item.question for item in asked]
    pairs = []
    for image, own in of_photo.items():
        generator.shuffle(texts)
        others = [text for text in dict.fromkeys(texts) if text not in own]
        pairs += [(image, text) for text in others[:per_photo]]
    return pairs


def taught(
    asked: list[Asked], tower: VisionTower, per_photo: int, networks: int, seed: int
) -> list[dict[str, Any]]:
    """Records of new questions about the same photos, each with the answer that the networks
    together hold for the likeliest.

    Args:
        asked: with their answers; what the networks learn.
        tower: frozen.
        per_photo: questions about each photo.
        networks: every other one of them sees no photo.
        seed: of the pairs, and of the networks.

    Raises:
        DataError: there is nothing to ask of a photo that was not asked of it.
        ImageError: a photo cannot be read.
    """
    pairs = draw_pairs(asked, per_photo, random.Random(seed))
    if not pairs:
        raise DataError("every question was asked of every photo: there is none to teach")
    words = sorted({word for item in asked for word in words_of(item.question)})
    vocabulary = {word: number for number, word in enumerate(words, start=UNKNOWN + 1)}
    answers = sorted({item.answers for item in asked})
    places = {answer: place for place, answer in enumerate(answers)}
    paths = {item.image: item.path for item in asked}
    photos = {image: number for number, image in enumerate(paths)}
    looks = patch_tokens(tower, list(paths.values()), "looking")
    tokens = torch.cat([look.half() for look in looks])
    questions = word_ids([item.question for item in asked], vocabulary)
    of_photos = torch.tensor([photos[item.image] for item in asked])
    labels = torch.tensor([places[item.answers] for item in asked])
    torch.manual_seed(seed)
    teachers = fit_several(networks, questions, tokens, of_photos, labels)
    told = probabilities(
        teachers,
        word_ids([question for _, question in pairs], vocabulary),
        tokens,
        torch.tensor([photos[image] for image, _ in pairs]),
    )
    return [
        {"image": image, "question": question, "answers": list(answers[best]), "split": "train"}
        for (image, question), best in zip(pairs, told.argmax(dim=1).tolist(), strict=True)
    ]


def main(
    questions: Path,
    split: str = "train",
    per_photo: int = 24,
    networks: int = 8,
    seed: int = 0,
) -> None:
    """Write `taught.jsonl` beside a file of questions: new ones, as small networks answer them.

    Args:
        questions: JSON-lines file with `image`, `question`, `answers` and `split`.
        split: whose questions the networks learn, whose photos are asked about.
        per_photo: questions about each photo, taken from the other photos.
        networks: whose mean answers; every other one sees no photo.
        seed: of the questions, and of the networks.
    """
    for name, value in (("per_photo", per_photo), ("networks", networks)):
        if value < 1:
            raise DataError(f"{name} must be at least 1, not {value}")
    asked = read_questions(questions, split)
    records = taught(asked, load_vision(VisionConfig()), per_photo, networks, seed)
    write_rows(questions.with_name("taught.jsonl"), records)


if __name__ == "__main__":
    raise SystemExit(cli.main(command=partial(cli.run, "python -m train.embedded.teach", main)))
