"""`vlm score`: answers of any model, in the files of each benchmark's official evaluation -> the
official figures."""

import json as json_format
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from eval.metrics.captions import Tokenizer, score_captions
from eval.metrics.choice import ChoiceQuestion, score_choice
from eval.metrics.exact import score_exact
from eval.metrics.gqa import score_gqa
from eval.metrics.pope import score_pope
from eval.metrics.scienceqa import score_scienceqa
from eval.metrics.scores import Scores
from eval.metrics.vqa import Variant, score_vqa
from eval.official import (
    by_id,
    entries,
    given_answers,
    gqa_questions,
    is_id,
    require,
    require_same,
    science_problems,
    text_or_none,
    texts,
)
from vlm.errors import DataError


def vqa(
    *,
    questions: Path,
    annotations: Path,
    results: Path,
    variant: Variant = "official",
    json: bool = False,
) -> None:
    """VQA accuracy (VQA v2, OK-VQA, TextVQA, VizWiz).

    Args:
        questions: VQA v2's file of questions.
        annotations: VQA v2's file of what people answered.
        results: JSON list of `{"question_id", "answer"}`.
        variant: the evaluation of VQA v2 (2021), or that of TextVQA.
        json: print JSON instead of a table.
    """
    asked = by_id(questions, entries(questions, "questions"), "question_id")
    annotated = by_id(annotations, entries(annotations, "annotations"), "question_id")
    require_same(annotations, annotated, asked, "annotation")
    answers = [given_answers(annotations, number, annotated[number]) for number in asked]
    predictions = read_results(results, asked)
    types = {
        name: [annotated[number].get(name) for number in asked]
        for name in ("question_type", "answer_type")
    }
    for name, column in types.items():
        require(
            annotations,
            [i for i, t in zip(asked, column, strict=True) if not text_or_none(t)],
            f"'{name}' that is no text",
        )
    report(
        score_vqa(predictions, answers, types["question_type"], types["answer_type"], variant), json
    )


def gqa(*, questions: Path, results: Path, json: bool = False) -> None:
    """GQA accuracy and consistency.

    Args:
        questions: GQA's file of balanced questions.
        results: JSON list of `{"questionId", "prediction"}`.
        json: print JSON instead of a table.
    """
    known = {number: question for number, (question, *_) in gqa_questions(questions).items()}
    predictions = read_results(results, known, "questionId", "prediction")
    report(score_gqa(known, dict(zip(known, predictions, strict=True))), json)


def pope(*, questions: list[str], results: list[str], json: bool = False) -> None:
    """POPE: F1, accuracy, precision, recall and share of yes.

    Args:
        questions: POPE's file of each split, with `question_id` and `label`.
        results: for each of them the answers, `{"question_id", "answer"}` or `"text"`.
        json: print JSON instead of a table.
    """
    if len(questions) != len(results):
        raise DataError(
            f"{len(questions)} files of questions but {len(results)} of results: give one for each"
        )
    splits = {}
    for file, answers in zip(map(Path, questions), map(Path, results), strict=True):
        asked = by_id(file, entries(file), "question_id")
        require(
            file,
            [i for i, entry in asked.items() if entry.get("label") not in ("yes", "no")],
            "'label' that is neither yes nor no",
        )
        name = next((n for n in ("random", "popular", "adversarial") if n in file.stem), file.stem)
        if name in splits:
            raise DataError(f"{file}: there are two files for the split '{name}'")
        there = [entry["label"] == "yes" for entry in asked.values()]
        splits[name] = (read_results(answers, asked, other_answer="text"), there)
    report(score_pope(splits), json)


def scienceqa(
    *, questions: Path, results: Path, split: str | None = "test", json: bool = False
) -> None:
    """ScienceQA accuracy by subject, context and grade.

    Args:
        questions: ScienceQA's `problems.json`.
        results: JSON list of `{"question_id", "answer"}`.
        split: the split that was asked; null is all problems.
        json: print JSON instead of a table.
    """
    asked = {
        number: question for number, (question, _) in science_problems(questions, split).items()
    }
    report(score_scienceqa(list(asked.values()), read_results(results, asked)), json)


def choice(*, questions: Path, results: Path, json: bool = False) -> None:
    """Multiple choice accuracy; circular where questions have a `group`.

    Args:
        questions: JSON or JSON-lines of `{"question_id", "options": {"A": ...}, "answer": "A"}`,
            and optionally `category` and `group`, the same for the rotations of a question.
        results: JSON list of `{"question_id", "answer"}`.
        json: print JSON instead of a table.
    """
    asked = {
        number: choice_question(questions, number, entry)
        for number, entry in by_id(questions, entries(questions), "question_id").items()
    }
    report(score_choice(list(asked.values()), read_results(results, asked)), json)


def exact(*, questions: Path, results: Path, split: str | None = None, json: bool = False) -> None:
    """Exact match (DAQUAR, easy-VQA): several answers are compared as a set.

    Args:
        questions: JSON or JSON-lines of `{"question_id", "answers": [...]}`, and optionally `split`
            and `kind`.
        results: JSON list of `{"question_id", "answer"}`.
        split: only questions of this split; all of them without it.
        json: print JSON instead of a table.
    """
    asked = by_id(questions, entries(questions), "question_id")
    if split is not None:
        asked = {number: entry for number, entry in asked.items() if entry.get("split") == split}
        if not asked:
            raise DataError(f"{questions}: no question of split '{split}'")
    answers = [", ".join(texts(questions, number, entry)) for number, entry in asked.items()]
    kinds = [entry.get("kind") for entry in asked.values()]
    require(
        questions,
        [i for i, kind in zip(asked, kinds, strict=True) if not text_or_none(kind)],
        "'kind' that is no text",
    )
    report(score_exact(read_results(results, asked), answers, kinds if any(kinds) else None), json)


def captions(
    *, annotations: Path, results: Path, tokenizer: Tokenizer = "python", json: bool = False
) -> None:
    """Captions: BLEU, ROUGE-L, CIDEr-D, and METEOR with Java.

    Args:
        annotations: COCO's file of captions, or JSON-lines of `{"image", "captions"}`.
        results: JSON list of `{"image_id", "caption"}`.
        tokenizer: this project's own, or the PTB one of the COCO evaluation, which needs Java.
        json: print JSON instead of a table.
    """
    references: dict[Any, list[str]] = {}
    listed = entries(annotations, "annotations")
    if "captions" in listed[0]:
        for number, entry in by_id(annotations, listed, "image").items():
            references[number] = texts(annotations, number, entry, "captions")
    else:
        for place, entry in enumerate(listed, start=1):
            number, caption = entry.get("image_id"), entry.get("caption")
            if not is_id(number) or not isinstance(caption, str):
                raise DataError(
                    f"{annotations}: annotation {place} has no 'image_id' and 'caption'"
                )
            references.setdefault(number, []).append(caption)
    predictions = read_results(results, references, "image_id", "caption")
    report(score_captions(list(references.values()), predictions, tokenizer), json)


def read_results(
    file: Path,
    asked: Mapping[Any, Any],
    other_id: str = "question_id",
    other_answer: str = "answer",
) -> list[str]:
    """A model's answers, in the order of the questions.

    Args:
        file: a list of `{"question_id", "answer"}`.
        asked: by id.
        other_id: the benchmark's own name for `question_id`.
        other_answer: the benchmark's own name for `answer`.

    Raises:
        DataError: answers that are no text, or that are missing, there twice, or to no question.
    """
    given = by_id(file, entries(file), other_id, "question_id")
    if asked and all(isinstance(number, str) for number in asked):
        given = {str(number): entry for number, entry in given.items()}
    require_same(file, given, asked, "answer")
    answers = {
        number: entry.get(other_answer, entry.get("answer")) for number, entry in given.items()
    }
    wrong = [number for number, answer in answers.items() if not isinstance(answer, str)]
    require(file, wrong, f"'{other_answer}' that is no text")
    return [answers[number] for number in asked]


def choice_question(file: Path, number: Any, entry: dict[str, Any]) -> ChoiceQuestion:
    """A question with options."""
    options, answer = entry.get("options"), entry.get("answer")
    if isinstance(options, list):
        options = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", options, strict=False))
    whole = isinstance(options, dict) and all(isinstance(t, str) for t in options.values())
    if not whole or answer not in options:
        raise DataError(
            f"{file}: question {number} needs 'options' by letter, and 'answer', one of the letters"
        )
    category, group = entry.get("category"), entry.get("group")
    return ChoiceQuestion(options, answer, category, None if group is None else str(group))


def report(scores: Scores, json: bool) -> None:
    """Prints scores, as a table or as one line of JSON."""
    if json:
        print(json_format.dumps(scores.to_json(), ensure_ascii=False))
        return
    low, high = scores.interval
    table = Table("", "score", title=escape(f"{scores.metric}, {len(scores.each):,} questions"))
    table.add_row("overall", f"{scores.overall:.2f}  ({low:.2f} to {high:.2f})")
    for name, value in scores.more.items():
        table.add_row(escape(name), f"{value:.2f}")
    for group, members in scores.groups.items():
        table.add_section()
        for name, value in members.items():
            table.add_row(escape(f"{group}: {name}"), f"{value:.2f}")
    Console().print(table)
