"""Which keys of a row hold its photo and its text, whatever holds the row: JSON, a table, a data
set, a shard."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from vlm.data.sample import KINDS
from vlm.data.source import Columns
from vlm.errors import DataError

IMAGE = ("image", "file_name", "images")
CAPTION = ("captions", "caption", "text")
ANSWER = ("answers", "answer")
OPTIONS = ("choices", "options")
CONVERSATION = ({"conversations"}, {"messages"}, {"images", "texts"})
"""Any of these sets of keys makes a row a conversation, see conversations.py."""

BESIDE = {
    "caption": {"question", "split"},
    "question": {"split", "hint", "history", "system", *OPTIONS, *KINDS},
}
"""Keys that are read beside those of `Keys`."""

TEXTS = {
    None: "captions, caption or text (or question with answers or answer)",
    "captions": "captions (or caption, text)",
    "questions": "question with answers (or answer)",
}
"""What text a row needs, by what is looked for."""


class Keys(NamedTuple):
    """The keys of a photo and of its text: a caption, or a question and its answer."""

    image: str
    caption: str | None = None
    question: str | None = None
    answer: str | None = None

    def left(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What a row has besides, which no reader takes."""
        read = BESIDE["question" if self.question else "caption"].union(self)
        return {name: value for name, value in row.items() if name not in read}


def keys_of(
    where: str, columns: Columns, found: Collection[str], kind: str | None = None
) -> Keys | None:
    """The keys that a config names, or else the first of the usual ones that are there: for `kind`
    `captions` or `questions` those alone; for None either, or None for a conversation's. A
    DataError, which says what was found, if some are missing, or captions and questions are both
    there."""

    def first(names: tuple[str, ...]) -> str | None:
        return next((name for name in names if name in found), None)

    image, caption = columns.image or first(IMAGE), columns.text
    question, answer = columns.question, columns.answer
    if caption is None and question is None:
        there = columns.image in (None, *found)
        if kind is None and there and any(form <= set(found) for form in CONVERSATION):
            return None
        if kind != "captions" and "question" in found and first(ANSWER):
            question, answer = "question", first(ANSWER)
        if kind != "questions":
            caption = first(CAPTION)
        if question and caption not in (None, "text"):
            raise DataError(
                f"{where}: found {caption}, and question with {answer}; say which to read: "
                f"`columns: {{text: {caption}}}`, or `{{question: question, answer: {answer}}}`"
            )
    texts = [question, answer] if question else [caption or TEXTS[kind]]
    wanted = [image or "image (or file_name)", *texts]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise DataError(
            f"{where}: {' and '.join(missing)} missing; found {', '.join(found) or 'nothing'}; "
            "`columns:` says which is which"
        )
    return Keys(image, None if question else caption, question, answer)
