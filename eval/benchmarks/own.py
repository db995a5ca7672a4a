"""Questions or captions of one's own, in any format that training takes: `vlm eval FILE`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eval.benchmark import NO_SPLITS, Benchmark
from eval.benchmarks.captions import DESCRIBE
from eval.benchmarks.captions import score as score_captions
from eval.metrics.choice import read_choice
from eval.question import Question
from vlm.data.formats import format_of
from vlm.data.hub import split_names
from vlm.data.options import OPTION_LETTER
from vlm.data.photos import FilePhoto
from vlm.data.read import READERS, read_source, read_whole
from vlm.data.sample import Conversation, Message, Sample
from vlm.data.source import DataSource


def own(file: Path, instruction: str | None = None, **settings: Any) -> Benchmark:
    """A source of data as a benchmark: of captions, or of questions whose answer is any of those
    that it has, but for case, articles and the full stop, or the option that is one.
    The instruction is put behind each question, on a line of its own; settings are the source's."""
    source = DataSource(str(file), **settings)
    source.format = format_of(source)
    splits = splits_of(source)
    first = replace(source, split=None if splits == NO_SPLITS else splits[0], limit=1)
    captions = bool(read_source(first).usable[0].questions)
    return Benchmark(
        name=f"{file.resolve().parent.name}-{file.stem}",
        title=f"{file}, {'CIDEr-D' if captions else 'any answer'}",
        splits=splits,
        layout=None,
        load=lambda folder, split: questions_of(source, split, instruction),
        max_tokens=40 if captions else 16,
        metric="any answer, but for case, articles and full stop, or the option meant",
        each=None if captions else is_right,
        score_all=score_captions if captions else None,
        file=file,
    )


def splits_of(source: DataSource) -> tuple[str, ...]:
    """The splits of a source, those that are held out first."""
    if source.format == "dataset":
        found = split_names(source.path, source.subset)
    else:
        records = READERS[source.format].records(source)
        found = [str(record.split) for record in records if record.split is not None]
    held_out = [split for split in ("test", "val") if split in found]
    return tuple(dict.fromkeys([*held_out, *found])) or NO_SPLITS


def questions_of(source: DataSource, split: str, instruction: str | None) -> list[Question]:
    """The questions of a split, or photos to be described."""
    chosen = None if split == "all" else split
    ending = "" if instruction is None else f"\n{instruction}"
    samples = read_whole(replace(source, split=chosen))
    questions = []
    for place, sample in enumerate(samples):
        images = [one.path if isinstance(one, FilePhoto) else one for one in sample.photos]
        image, name = (images[0], Path(sample.photos[0].name).name) if images else (None, "")
        if sample.questions:
            questions.append(Question(f"{place}/{name}", image, DESCRIBE, sample.answers[0]))
            continue
        for turn, (talk, answers, labels) in enumerate(asked(sample)):
            number = f"{place}/{name}" + f"/{turn}" * (turn > 0)
            number = sample.ids[turn] if source.format == "questions" else number
            text = said(talk[-1])
            # Options have an instruction of their own.
            behind = "" if text.endswith(OPTION_LETTER) else ending
            photos = [at for at, part in enumerate(talk[0].parts) if isinstance(part, int)]
            plain = len(talk) == 1 and len(images) == 1 and photos == [0]
            last = talk[-1]._replace(parts=(*talk[-1].parts, *[behind] * bool(behind)))
            whole = [] if plain else [each.with_images(images) for each in (*talk[:-1], last)]
            one = Question(number, image, text + behind, answers, labels, talk=tuple(whole))
            options = sample.options[turn] if sample.options else None
            questions.append(replace(one, scored_as=options))
    if source.format == "questions":
        questions.sort(key=lambda question: int(question.id))
    return questions


def asked(sample: Sample) -> Iterator[tuple[Conversation, tuple[str, ...], dict[str, str]]]:
    """Each question of a sample at the end of what was said before, with its answers and its
    kinds."""
    for place, conversation in enumerate(sample.conversations):
        kinds = sample.kinds[place] if sample.kinds else {}
        ends = [n for n, message in enumerate(conversation) if message.role == "assistant"]
        if sample.answers:
            yield conversation[: ends[-1]], sample.answers[place], kinds
        else:
            yield from ((conversation[:end], (said(conversation[end]),), kinds) for end in ends)


def said(message: Message) -> str:
    return " ".join(part.strip() for part in message.parts if isinstance(part, str))


def is_right(question: Question, answer: str) -> float:
    if question.scored_as:
        return float(read_choice(answer, question.scored_as) in question.answers)
    return float(any_match(answer, question.answers))


def normalise(answer: str) -> str:
    """An answer as it is compared: `" A dog."` -> `dog`."""
    plain = " ".join(answer.lower().split()).rstrip(". ")
    return re.sub(r"^((a|an|the) )+", "", plain)


def any_match(prediction: str, answers: Sequence[str]) -> bool:
    return normalise(prediction) in map(normalise, answers)
