"""A model's answers in the files that evaluations write and LLaVA's forks write -> texts in the
order of the questions."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.benchmarks.scienceqa import LETTERS
from eval.hub import Row
from eval.question import Question
from vlm.data.records import by_id, head, read_records, refuse
from vlm.errors import DataError
from vlm.files import read_json

ANSWERS = ("answer", "text", "prediction", "caption")
"""Keys of an answer: the official form's, LLaVA's, GQA's and ours, COCO's; the first is taken."""


def read_results(
    file: Path,
    asked: Sequence[Question],
    found: Iterable[dict[str, Any]] | None = None,
    number: str = "question_id",
) -> list[str]:
    """A model's answers, in the order of the questions, from a list or lines of `{"question_id",
    "answer"}` or of what the benchmark calls the id (`number`), or from such objects, `found` in a
    file of another form. A DataError for missing, unknown or repeated ids, and for no text."""
    found = objects(file) if found is None else found
    given = {str(n): one for n, one in by_id(file, found, number, "question_id").items()}
    ids = {question.id for question in asked}
    refuse(file, [question.id for question in asked if question.id not in given], "no answer")
    refuse(file, [n for n in given if n not in ids], "no such question", "answers")
    keys = {n: next((key for key in ANSWERS if key in one), "answer") for n, one in given.items()}
    wrong = [n for n, key in keys.items() if not isinstance(given[n].get(key), str)]
    refuse(file, wrong, f"'{keys[wrong[0]] if wrong else ''}' that is no text")
    return [given[question.id][keys[question.id]] for question in asked]


def objects(file: Path) -> list[dict[str, Any]]:
    return [each.content for each in read_records(file)]


def by_photo(file: Path, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """LLaVA's answers to TextVQA, whose `question_id` is the photo's: which of the photo's
    questions it was, its prompt says. Answers with a question's own id stay as they are."""
    asked: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for _, row, _ in rows:
        asked[str(row["image_id"])].append((str(row["question"]).lower(), row["question_id"]))
    for where, entry, _ in read_records(file):
        left, prompt = asked.get(str(entry.get("question_id"))), entry.get("prompt")
        if left is not None:
            fits = [one for one in left if one[0] in str(prompt).lower()]
            if not fits:
                told = f"{where}: no question about the photo {entry['question_id']} is in its"
                raise DataError(f"{told} prompt, or was not answered before: {str(prompt)[:80]!r}")
            # One question may begin another.
            chosen = max(fits, key=lambda one: len(one[0]))
            left.remove(chosen)
            entry = {**entry, "question_id": chosen[1]}
        yield entry


def by_number(file: Path) -> Iterator[dict[str, Any]]:
    """ScienceQA's answers: lines as all others, or in the official form, which is LLaVA's too, the
    number of an option for each id, -1 for none, under `results`."""
    start = head(file)
    if not start.startswith("{") or not re.search(r'"results"\s*:\s*\{', start):
        yield from objects(file)
        return
    for key, place in read_json(file).get("results", {}).items():
        if type(place) is not int or not -1 <= place < len(LETTERS):
            told = f"{file}: results of problem {key}: the number of an option, or -1, is needed"
            raise DataError(told)
        yield {"question_id": key, "answer": "" if place < 0 else LETTERS[place]}


def by_place(file: Path, texts: dict[str, str]) -> list[dict[str, Any]]:
    """POPE's answers; those of the official form, which have no ids, are in the order of the
    questions. A DataError where they name another question than `texts` has under their id: POPE's
    files number theirs alike."""
    found = objects(file)
    if len(found) == len(texts) and not any("question_id" in one for one in found):
        found = [{"question_id": n, **one} for n, one in zip(texts, found, strict=True)]
    for one in found:
        number, own = one.get("question_id"), "text" if "answer" in one else "question"
        named = next((one[key] for key in ("prompt", "question", own) if key in one), None)
        text = plain(texts.get(str(number), ""))
        if isinstance(named, str) and text not in plain(named):
            told = f"{file}: the answer to question {number} is to {named[:80]!r}, not"
            raise DataError(f"{told} {text[:80]!r}: is it to another file of POPE?")
        if own == "question" and text and plain(str(one.get("text"))) == text:
            raise DataError(f"{file}: 'text' of question {number} is the question, not an answer")
    return found


def plain(text: str) -> str:
    return " ".join(text.lower().split())
