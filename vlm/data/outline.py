"""A sample as two texts of JSON and back, and what is known of many without reading them again."""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlm.data.photos import FilePhoto, Photo, RowPhoto, TarPhoto, UrlPhoto
from vlm.data.sample import Message, Sample


class Outline(NamedTuple):
    """What is known of S samples with P photos.

    Attributes:
        lengths: characters of each sample's texts (S,), int64.
        counts: photos of each sample (S,), int32.
        photos: a number for each photo, sample after sample (P,), uint64: the same for the same
            photo, as good as never for others.
        fingerprint: SHA-256 over the text, the photos' names and the order, in hexadecimal.
    """

    lengths: np.ndarray
    counts: np.ndarray
    photos: np.ndarray
    fingerprint: str


NOTHING = Outline(np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.uint64), "")


def joined(outlines: Sequence[Outline]) -> Outline:
    """That of several sources' samples, one source after the other; where one ends counts for the
    fingerprint, since it decides how they are mixed."""
    lengths, counts, photos, digests = zip(NOTHING, *outlines, strict=True)
    digest = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return Outline(*map(np.concatenate, (lengths, counts, photos)), digest)


ENCODE = json.JSONEncoder(check_circular=False).encode


class Row(NamedTuple):
    """A sample as it is kept: what is trained of it and the rest as JSON, the characters of its
    texts, and the numbers of its photos (see `Outline`)."""

    trained: bytes
    rest: bytes
    length: int
    photos: list[int]


def row_of(sample: Sample) -> Row:
    names = [photo.name for photo in sample.photos]
    places = [place_of(photo) for photo in sample.photos]
    options = [dict(each) for each in sample.options]
    scored = sample.answers, sample.kinds, sample.ids, options
    return Row(
        ENCODE([names, sample.conversations, sample.questions]).encode(),
        ENCODE([sample.where, places, *scored, sample.dropped]).encode(),
        sum([len(text) for text in sample.texts()]),
        [number_of(name, place) for name, place in zip(names, places, strict=True)],
    )


def outline_of(samples: Iterable[Sample]) -> Outline:
    lengths, counts, photos, digest = array("q"), array("i"), array("Q"), hashlib.sha256()
    for row in map(row_of, samples):
        lengths.append(row.length)
        counts.append(len(row.photos))
        photos.extend(row.photos)
        digest.update(row.trained + b"\n")
    return Outline(*map(np.array, (lengths, counts, photos)), digest.hexdigest())


def number_of(name: str, place: Any) -> int:
    text = name.encode(errors="surrogatepass") + (b"" if place is None else ENCODE(place).encode())
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def place_of(photo: Photo) -> Any:
    """Where a photo's bytes lie, unless its name says that."""
    match photo:
        case FilePhoto():
            return None
        case TarPhoto(tar, member, offset, size):
            return [str(tar), member, offset, size]
        case RowPhoto(path=path, column=column, row=row, place=place):
            return [path, column, row, place]
        case UrlPhoto(url):
            return url


def photo_of(name: str, place: Any, table: Callable[[str, str], Any]) -> Photo:
    match place:
        case None:
            return FilePhoto(name)
        case str():
            return UrlPhoto(place)
        case [tar, member, int(offset), int(size)] if name == f"{tar}:{member}":
            return TarPhoto(Path(tar), member, offset, size)
    path, column, row, within = place
    return RowPhoto(path, table(path, column), column, row, within)


def sample_of(trained: bytes, rest: bytes, table: Callable[[str, str], Any]) -> Sample:
    """The sample of a `Row`; `table` gives the data set of a row's photo, by its
    path and column."""
    names, conversations, questions = json.loads(trained)
    where, places, answers, kinds, ids, options, dropped = json.loads(rest)
    return Sample(
        where,
        tuple(photo_of(name, place, table) for name, place in zip(names, places, strict=True)),
        tuple(
            tuple(Message(role, tuple(parts)) for role, parts in conversation)
            for conversation in conversations
        ),
        tuple(questions),
        tuple(map(tuple, answers)),
        tuple(kinds),
        tuple(ids),
        tuple(options),
        tuple(dropped),
    )
