"""What the language model itself answers to questions without an image.

Trained on beside the images, its own answers keep its abilities with text: pseudo-rehearsal (Robins
1995), as in learning without forgetting (Li & Hoiem 2016)."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

import vlm
from vlm import cli
from vlm.checkpoint import read
from vlm.errors import DataError
from vlm.files import write_rows
from vlm.model import VisionLanguageModel

MAX_TOKENS = 96
BATCH_SIZE = 16

MARGIN = 8
"""Tokenised again, an answer that reached the limit may take a few tokens less."""

SENTENCE_END = re.compile(r"(?<=[^\W\d_])[.!?]+[\"')]*(?=\s|$)")
"""Behind a letter, so that the number of a list's item ends no sentence."""


def read_lines(file: Path) -> list[str]:
    """The lines of a text file that are not blank, each once, in its order.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or has no such line.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error.reason}") from error
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if not lines:
        raise DataError(f"{file} is empty: it needs one question a line")
    return lines


def whole_sentences(text: str) -> str:
    """A text up to the end of its last whole sentence; empty if there is none."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    return text[: ends[-1]] if ends else ""


def replay(
    model: VisionLanguageModel, questions: list[str], max_tokens: int
) -> Iterator[dict[str, Any]]:
    """Conversations in LLaVA's form: each question with the model's greedy answer. One that reaches
    `max_tokens` is cut behind its last whole sentence; a question without an answer is left out.

    Args:
        model: answers without an image.
        questions: asked one by one.
        max_tokens: of an answer.

    Raises:
        PromptError: a question too long for the model.
    """
    tokenizer = model.language.tokenizer
    starts = range(0, len(questions), BATCH_SIZE)
    for start in track(starts, "answering", console=Console(stderr=True)):
        asked = questions[start : start + BATCH_SIZE]
        answers = model.batch([(None, question) for question in asked], max_tokens=max_tokens)
        for question, answer in zip(asked, answers, strict=True):
            length = len(tokenizer.encode(answer, add_special_tokens=False))
            said = whole_sentences(answer) if length > max_tokens - MARGIN else answer.strip()
            if said:
                turns = (("human", question), ("gpt", said))
                yield {"conversations": [{"from": who, "value": what} for who, what in turns]}


def main(questions: Path, output: Path, model: str = "embedded") -> None:
    """Write what the plain language model answers to questions without an image, to train on.

    Args:
        questions: text file with a question or instruction on each line.
        output: JSON-lines file of conversations in LLaVA's form.
        model: whose language model answers, without its adapters: `embedded`, or a checkpoint
            folder.

    Raises:
        DataError: questions that cannot be read, or an output that is their file or cannot be
            written.
        WeightsError, CheckpointError, ConfigError: a model that cannot be built.
        PromptError: a question too long for the model.
    """
    lines = read_lines(questions)
    if output.exists() and output.samefile(questions):
        raise DataError(f"{output} holds the questions: choose another output")
    config, _ = read(model)
    plain = vlm.build(replace(config, language=replace(config.language, lora=None))).eval()
    write_rows(output, replay(plain, lines, MAX_TOKENS))


if __name__ == "__main__":
    raise SystemExit(cli.main(command=partial(cli.run, "python -m train.embedded.replay", main)))
