"""Questions or captions of one's own, in any format that training takes: `vlm eval FILE`."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from eval.benchmark import NO_SPLITS, Benchmark
from eval.benchmarks.captions import DESCRIBE
from eval.benchmarks.captions import score as score_captions
from eval.question import Question
from vlm.data.formats import format_of
from vlm.data.hub import split_names
from vlm.data.photos import FilePhoto
from vlm.data.read import READERS, read_source, read_whole
from vlm.data.records import read_records
from vlm.data.sample import Sample
from vlm.data.source import DataSource
from vlm.errors import DataError


def own(file: Path, instruction: str | None = None) -> Benchmark:
    """A file or folder as a benchmark: of captions, or of questions whose answer is any of those
    that it has, but for case, articles and the full stop.
    The instruction is put behind each question, on a line of its own."""
    source = DataSource(str(file))
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
        metric="any answer, but for case, articles and full stop",
        each=None if captions else lambda q, answer: float(any_match(answer, q.answers)),
        score_all=score_captions if captions else None,
        file=file,
    )


def splits_of(source: DataSource) -> tuple[str, ...]:
    """The splits of a source, those that are held out first."""
    if source.format == "dataset":
        found = split_names(source.path)
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
    numbers = line_numbers(source, chosen) if source.format == "questions" else None
    questions = []
    for place, sample in enumerate(samples):
        if len(sample.photos) != 1:
            raise DataError(f"{sample.where}: one photo is needed, not {len(sample.photos)}")
        (photo,) = sample.photos
        image = photo.path if isinstance(photo, FilePhoto) else photo
        name = Path(photo.name).name
        if sample.questions:
            questions.append(Question(f"{place}/{name}", image, DESCRIBE, sample.answers[0]))
            continue
        for turn, (text, answers, labels) in enumerate(asked(sample)):
            number = f"{place}/{name}" + f"/{turn}" * (turn > 0)
            number = number if numbers is None else next(numbers)
            questions.append(Question(number, image, text + ending, answers, labels))
    if numbers is not None:
        questions.sort(key=lambda question: int(question.id))
    return questions


def asked(sample: Sample) -> Iterator[tuple[str, tuple[str, ...], dict[str, str]]]:
    """Each question of a sample, with its answers and its kinds."""
    for place, conversation in enumerate(sample.conversations):
        if len(conversation) != 2:
            raise DataError(f"{sample.where}: one question and answer is needed, not several")
        question, answer = (
            " ".join(part.strip() for part in message.parts if isinstance(part, str))
            for message in conversation
        )
        answers = sample.answers[place] if sample.answers else (answer,)
        yield question, answers, sample.kinds[place] if sample.kinds else {}


def line_numbers(source: DataSource, split: str | None) -> Iterator[str]:
    """The lines of a file of questions, in the order of its samples: by photo."""
    lines: dict[str, list[str]] = {}
    for where, content, its_split in read_records(Path(source.path)):
        if split in (None, str(its_split)):
            image = f"{content['image']} {its_split}"
            lines.setdefault(image, []).append(where.rpartition(" ")[2])
    return (number for numbers in lines.values() for number in numbers)


def normalise(answer: str) -> str:
    """An answer as it is compared: `" A dog."` -> `dog`."""
    plain = " ".join(answer.lower().split()).rstrip(". ")
    return re.sub(r"^((a|an|the) )+", "", plain)


def any_match(prediction: str, answers: Sequence[str]) -> bool:
    return normalise(prediction) in map(normalise, answers)
