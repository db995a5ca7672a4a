"""The files of official evaluations: their objects, and what is said of those that are broken."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.metrics.gqa import GqaQuestion
from eval.metrics.scienceqa import LETTERS, ScienceQuestion
from vlm.errors import DataError

FIRST = 5
"""Offenders that an error names; it counts the rest."""

LARGEST = 2**31
"""Bytes of a file that is read at all; VQA v2's annotations of its training split have 0.4 GB."""


def read_json(file: Path) -> Any:
    """What a file of JSON holds; the objects of JSON-lines as a list.

    Raises:
        DataError: no such file, too large a one, or no JSON.
    """
    try:
        if file.stat().st_size > LARGEST:
            raise DataError(f"{file} is larger than {LARGEST >> 30} GiB")
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text") from error
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DataError(f"{file}: nested too deep") from error
    except ValueError as error:
        lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
        if len(lines) < 2 or not lines[0][1].lstrip().startswith("{"):
            raise DataError(f"{file}: not JSON: {error}") from error
    objects = []
    for number, line in lines:
        try:
            objects.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: not JSON: {error}") from error
    return objects


def entries(file: Path, key: str | None = None) -> list[dict[str, Any]]:
    """The objects of a file: a list of them, JSON-lines, or a list under `key`.

    Raises:
        DataError: it holds something else, or nothing.
    """
    found = read_json(file)
    if isinstance(found, dict):
        found = [found] if key is None else found.get(key)
    where = f"{file}: a list of objects" + (f", under '{key}'," * bool(key)) + " is needed"
    if not isinstance(found, list):
        raise DataError(f"{where}, not {type(found).__name__}")
    wrong = [place for place, entry in enumerate(found, start=1) if not isinstance(entry, dict)]
    if wrong:
        raise DataError(f"{where}: {listing(wrong)} of its entries are no objects")
    if not found:
        raise DataError(f"{file} is empty")
    return found


def is_id(value: Any) -> bool:
    """Whether it can tell questions apart."""
    return isinstance(value, str | int) and not isinstance(value, bool)


def text_or_none(value: Any) -> bool:
    """Whether it is a text or left out."""
    return value is None or isinstance(value, str)


def by_id(file: Path, listed: Iterable[dict[str, Any]], *names: str) -> dict[Any, dict[str, Any]]:
    """Objects by their id, in their order.

    Args:
        file: that they are from.
        listed: the objects.
        names: of the key that is the id; the first of them that an object has.

    Raises:
        DataError: an object without id, or an id that comes twice.
    """
    numbers = [next((entry[name] for name in names if name in entry), None) for entry in listed]
    without = [place for place, number in enumerate(numbers, start=1) if not is_id(number)]
    if without:
        wanted = " or ".join(f"'{name}'" for name in dict.fromkeys(names))
        raise DataError(f"{file}: entries without {wanted}: {listing(without)}")
    twice = [number for number, count in Counter(numbers).items() if count > 1]
    require(file, twice, f"'{names[0]}' twice", "ids")
    return dict(zip(numbers, listed, strict=True))


def require(file: Path, offenders: Sequence[Any], what: str, of: str = "questions") -> None:
    """Raises:
    DataError: there are offenders.
    """
    if offenders:
        raise DataError(f"{file}: {len(offenders):,} {of} with {what}: {listing(offenders)}")


def listing(items: Sequence[Any]) -> str:
    """The first of them, and how many more there are."""
    named = ", ".join(map(str, items[:FIRST]))
    return named + (f" and {len(items) - FIRST:,} more" * (len(items) > FIRST))


def texts(
    file: Path,
    number: Any,
    entry: dict[str, Any],
    key: str = "answers",
    none_is_fine: bool = False,
) -> list[str]:
    """The texts of a list.

    Raises:
        DataError: no list, something else in it, or nothing where that is not fine.
    """
    found = entry.get(key)
    whole = isinstance(found, list) and all(isinstance(text, str) for text in found)
    if not whole or not (found or none_is_fine):
        raise DataError(f"{file}: {number} needs a list '{key}' of texts")
    return found


def require_same(file: Path, given: Mapping[Any, Any], asked: Mapping[Any, Any], what: str) -> None:
    """Checks that there is exactly one for each question.

    Raises:
        DataError: names the first that are missing, or that belong to no question.
    """
    missing = [number for number in asked if number not in given]
    require(file, missing, f"no {what}", "questions")
    unknown = [number for number in given if number not in asked]
    require(file, unknown, "no such question", f"{what}s")


def given_answers(file: Path, number: Any, annotation: dict[str, Any]) -> list[str]:
    """What people answered to a question of VQA v2."""
    answers = annotation.get("answers")
    whole = isinstance(answers, list) and len(answers) >= 2
    if not whole or not all(
        isinstance(each, dict) and isinstance(each.get("answer"), str) for each in answers
    ):
        raise DataError(
            f"{file}: question {number} needs a list 'answers' of two or more objects with 'answer'"
        )
    return [each["answer"] for each in answers]


def gqa_questions(file: Path) -> dict[str, tuple[GqaQuestion, str, str]]:
    """GQA's questions by id, each with its text and the id of its image.

    Raises:
        DataError: a file that is missing or broken.
    """
    asked = read_json(file)
    if not isinstance(asked, dict) or not asked:
        raise DataError(f"{file}: GQA's questions are an object, from id to question")
    questions = {}
    for number, entry in asked.items():
        try:
            types, entailed = entry["types"], entry.get("entailed", [])
            answer, structural = entry["answer"], types["structural"]
            semantic = types.get("semantic")
            text, image = entry.get("question", ""), entry.get("imageId", "")
            named = (answer, structural, text, image, *entailed)
            if not all(isinstance(each, str) for each in named) or "/" in image:
                raise TypeError
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{file}: question {number} needs 'answer' and 'types' with 'structural'"
            ) from error
        question = GqaQuestion(answer, structural, semantic, tuple(entailed))
        questions[number] = (question, text, image)
    return questions


def science_problems(
    file: Path, split: str | None
) -> dict[str, tuple[ScienceQuestion, dict[str, Any]]]:
    """ScienceQA's problems of a split by id, each with its entry in the file.

    Args:
        file: `problems.json`.
        split: None is all.

    Raises:
        DataError: a file that is missing or broken, or nothing in that split.
    """
    problems = read_json(file)
    if not isinstance(problems, dict) or not problems:
        raise DataError(f"{file}: ScienceQA's problems are an object, from id to problem")
    asked = {
        number: (science_question(file, number, problem), problem)
        for number, problem in problems.items()
        if split is None or (isinstance(problem, dict) and problem.get("split") == split)
    }
    if not asked:
        raise DataError(f"{file}: no problem of split '{split}'")
    return asked


def science_question(file: Path, number: str, problem: Any) -> ScienceQuestion:
    """A problem of ScienceQA's file."""
    try:
        options, answer = len(problem["choices"]), int(problem["answer"])
        grade = int(str(problem["grade"]).removeprefix("grade"))
        subject = problem["subject"]
        if not 0 <= answer < options <= len(LETTERS) or not isinstance(subject, str):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file}: problem {number} needs 'choices' (at most {len(LETTERS)}), 'answer' (the "
            "number of one), 'subject' and 'grade'"
        ) from error
    hint, image = problem.get("hint"), problem.get("image")
    return ScienceQuestion(options, answer, subject, grade, bool(hint), bool(image))
