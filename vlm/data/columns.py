"""A photo with the text of a row, in columns that the config names: a caption or several, or a
question and its answers."""

from collections.abc import Mapping
from typing import Any

from vlm.data.photos import Photo
from vlm.data.sample import Sample, answers_of, asked, captioned
from vlm.data.source import Columns, DataSource


def text_columns(columns: Columns) -> list[str]:
    """Names of the columns with text."""
    if columns.question is not None and columns.answer is not None:
        return [columns.question, columns.answer]
    return [columns.text]


def sample_of(source: DataSource, where: str, photo: Photo, row: Mapping[str, Any]) -> Sample:
    """One row.

    Raises:
        SkipSample: its text is no text, or empty.
    """
    first, *second = (row[name] for name in text_columns(source.columns))
    if not second:
        return captioned(where, photo, first, source.questions)
    answers = (answers_of(second[0]),)
    return Sample(where, (photo,), (asked(first, *second, source),), answers=answers)
