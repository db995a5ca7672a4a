"""What a row of any kind says: a conversation, a question, or captions of its photo."""

import ast
import json
import re
from contextlib import suppress
from typing import Any

from vlm.data.captions import caption_sample
from vlm.data.columns import IMAGE, OPTIONS, Keys
from vlm.data.conversations import LISTS, conversation_sample
from vlm.data.questions import question_sample
from vlm.data.records import Record
from vlm.data.sample import Sample
from vlm.data.source import DataSource

STRING = r"""'(?:[^'\\\n]|\\[\\'"nrtxuU])*+'|"(?:[^"\\\n]|\\[\\'"nrtxuU])*+\""""
"""A string as Python writes it."""

PLAIN = re.compile(rf"(?:[\s\w.,:(){{}}\[\]]|{STRING})*+")
"""Strings, names, numbers and brackets: Python's reader builds nothing deep of them."""

ITEM = re.compile(rf"({STRING}|\w+|[\]}}])(\s+(?=[\w'\"{{\[]))?")
"""What stands in a list, with the space in front of the next item where NumPy has no comma."""

LONGEST = 1 << 17
"""Characters of a list, as many as the csv module takes in a cell."""


def row_sample(source: DataSource, record: Record) -> Sample:
    """The sample of a row with its keys, without keys a conversation."""
    row, keys = record.content
    if keys is None:
        return conversation_sample(source, Record(record.where, row))
    if keys.question is not None:
        return question_sample(source, Record(record.where, [record]))
    return caption_sample(source, record)


def with_lists(row: dict[str | None, Any], keys: Keys | None) -> dict[str | None, Any]:
    """A row of cells, with lists for those that are written as text, where there may be some."""
    named = LISTS if keys is None else (keys.image, keys.caption, keys.answer)
    lists = {*IMAGE, "history", *OPTIONS, *named}
    found = {name: listed_in(cell) for name, cell in row.items() if name in lists}
    # Only options come as an object; another one is what is to be answered.
    return row | {n: one for n, one in found.items() if n in OPTIONS or not isinstance(one, dict)}


def listed_in(cell: Any) -> Any:
    """The texts or objects that a cell holds as text, as pandas writes Python's and NumPy's into
    CSV (`['A cat.', 'A grey cat.']`, `['A cat.' 'A grey cat.']`), or as JSON; else the cell."""
    text = cell.strip() if isinstance(cell, str) else ""
    if text[:1] + text[-1:] not in ("[]", "{}", "()") or len(text) > LONGEST:
        return cell
    found = None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            if PLAIN.fullmatch(text):
                # Python would join strings without a comma between them.
                commas = ITEM.sub(lambda item: item[1] + ", " * bool(item[2]), text)
                found = ast.literal_eval(commas)
    if isinstance(found, tuple | set):
        # A set has no order, but the same command is to do the same.
        found = sorted(found, key=str) if isinstance(found, set) else list(found)
    rows = found if isinstance(found, list) else []
    items = [one for row in rows for one in (row if isinstance(row, list) else [row])]
    # Numbers may be what is to be answered: `[[1, 2], [3, 4]]`.
    texts = isinstance(found, list) and all(isinstance(one, str | dict | None) for one in items)
    return found if texts or isinstance(found, dict) else cell
