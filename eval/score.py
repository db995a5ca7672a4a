"""`vlm score`: answers of any model, in the files of each benchmark's official evaluation -> the
official figures."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from json import dumps
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.benchmark import breakdowns, make
from eval.benchmarks import textvqa, vizwiz
from eval.benchmarks.choice import choice as as_choice
from eval.benchmarks.choice import score as score_choices
from eval.benchmarks.daquar import DAQUAR
from eval.benchmarks.gqa import GQA, rows_of
from eval.benchmarks.pope import POPE
from eval.benchmarks.scienceqa import SCIENCE_QA, problems
from eval.benchmarks.textvqa import TEXT_VQA
from eval.benchmarks.vizwiz import VIZWIZ
from eval.benchmarks.vqa_v2 import VQA_V2, annotated
from eval.hub import Row
from eval.metrics.captions import Tokenizer, score_captions
from eval.metrics.scores import Scores, mean_scores
from eval.metrics.vqa import Variant, vqa_accuracy
from eval.question import Question, texts_in
from eval.results import by_number, by_photo, by_place, objects, read_results
from eval.table import table_of
from vlm.data.absent import WAYS
from vlm.data.records import by_id, head, is_id, read_records, refuse
from vlm.errors import DataError


def vqa(
    *,
    results: Path,
    questions: Path | None = None,
    annotations: Path | None = None,
    variant: Variant | None = None,
    json: bool = False,
) -> None:
    """VQA accuracy (VQA v2, OK-VQA, TextVQA, VizWiz).

    Args:
        results: JSON list or lines of `{"question_id", "answer"}`, `{"image", "answer"}` for
            VizWiz; here and in all of `vlm score` LLaVA's `{"question_id", "prompt", "text"}`.
        questions: VQA v2's file of questions; or TextVQA's or VizWiz's file, which has all.
        annotations: VQA v2's file of what people answered.
        variant: the evaluation of VQA v2 (2021), or that of TextVQA; null is the data's own.
        json: print JSON instead of a table.
    """
    file, own, found, number = questions or annotations, "official", None, "question_id"
    start = "" if file is None else head(file)
    if questions is not None and annotations is not None:
        asked = make(unseen(annotated(questions, annotations)), VQA_V2.question)
    elif start.startswith("["):
        asked, number = make(unseen(vizwiz.rows_of(file)), VIZWIZ.question), "image"
    elif re.search(r'"data"\s*:', start):
        rows = list(unseen(textvqa.rows_of(file)))
        asked, own, found = make(rows, TEXT_VQA.question), "textvqa", by_photo(results, rows)
    else:
        raise DataError(
            f"{file or 'no file of questions'}: --questions and --annotations go together for VQA "
            "v2; alone, --questions is TextVQA's or VizWiz's file"
        )
    answers = read_results(results, asked, found, number)
    kind = variant or own
    pairs = zip(answers, asked, strict=True)
    each = [vqa_accuracy(answer, one.answers, kind) for answer, one in pairs]
    report(mean_scores(f"VQA accuracy, {kind}", each, breakdowns(asked, each)), json)


def gqa(*, questions: Path, results: Path, json: bool = False) -> None:
    """GQA accuracy and consistency.

    Args:
        questions: GQA's file of balanced questions.
        results: JSON list of `{"questionId", "prediction"}`.
        json: print JSON instead of a table.
    """
    asked = make(unseen(rows_of(questions)), GQA.question)
    report(GQA.score(asked, read_results(results, asked, number="questionId")), json)


def pope(*, questions: list[str], results: list[str], json: bool = False) -> None:
    """POPE: F1, accuracy, precision, recall and share of yes.

    Args:
        questions: POPE's file of each split, with `question_id` and `label`.
        results: for each of them the answers, `{"question_id", "answer"}`, or POPE's own
            `{"question", "answer"}` in the order of the questions.
        json: print JSON instead of a table.
    """
    if len(questions) != len(results):
        raise DataError(
            f"{len(questions)} files of questions but {len(results)} of results: give one for each"
        )
    splits: dict[str, list[Question]] = {}
    answers: list[str] = []
    for file, given in zip(map(Path, questions), map(Path, results), strict=True):
        entries = by_id(file, objects(file), "question_id")
        wrong = [n for n, entry in entries.items() if entry.get("label") not in ("yes", "no")]
        refuse(file, wrong, "'label' that is neither yes nor no")
        name = next((kind for kind in WAYS if kind in file.stem), file.stem)
        if name in splits:
            raise DataError(f"{file}: there are two files for the split '{name}'")
        splits[name] = [
            Question(str(n), b"", "", (entry["label"],), {"split": name})
            for n, entry in entries.items()
        ]
        texts = {str(n): str(entry.get("text", "")) for n, entry in entries.items()}
        answers += read_results(given, splits[name], by_place(given, texts))
    report(POPE.score([each for asked in splits.values() for each in asked], answers), json)


def scienceqa(
    *, questions: Path, results: Path, split: str | None = "test", json: bool = False
) -> None:
    """ScienceQA accuracy by subject, context and grade.

    Args:
        questions: ScienceQA's `problems.json`.
        results: JSON list of `{"question_id", "answer"}`, or `{"results": {ID: number of an
            option}}`, as ScienceQA and LLaVA have it.
        split: the split that was asked; null is all problems.
        json: print JSON instead of a table.
    """
    asked = make(unseen(problems(questions, split)), SCIENCE_QA.question)
    report(SCIENCE_QA.score(asked, read_results(results, asked, by_number(results))), json)


def choice(*, questions: Path, results: Path, json: bool = False) -> None:
    """Multiple choice accuracy; circular where questions have a `group`.

    Args:
        questions: JSON or JSON-lines of `{"question_id", "options": {"A": ...}, "answer": "A"}`,
            and optionally `category` and `group`, the same for the rotations of a question.
        results: JSON list of `{"question_id", "answer"}`.
        json: print JSON instead of a table.
    """
    asked = make(rows_in(questions), choice_question)
    report(score_choices(asked, read_results(results, asked)), json)


def choice_question(row: dict[str, Any], image: Any) -> Question:
    number, group = row["question_id"], row.get("group")
    group = None if group is None else str(group)
    options, answer = row.get("options"), row.get("answer")
    return as_choice(number, image, "", options, answer, row.get("category"), group)


def exact(*, questions: Path, results: Path, split: str | None = None, json: bool = False) -> None:
    """Exact match (DAQUAR, easy-VQA): several answers are compared as a set.

    Args:
        questions: JSON or JSON-lines of `{"question_id", "answers": [...]}`, and optionally `split`
            and `kind`.
        results: JSON list of `{"question_id", "answer"}`.
        split: only questions of this split; all of them without it.
        json: print JSON instead of a table.
    """
    rows = (row for row in rows_in(questions) if split in (None, row.content.get("split")))
    asked = make(rows, exact_question)
    if not asked:
        raise DataError(f"{questions}: no question of split '{split}'")
    report(DAQUAR.score(asked, read_results(results, asked)), json)


def exact_question(row: dict[str, Any], image: Any) -> Question:
    labels = {"kind": row["kind"]} if row.get("kind") else {}
    return Question(str(row["question_id"]), image, "", (", ".join(texts_in(row)),), labels)


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
    if re.search(r'"captions"\s*:', head(annotations)):
        rows = rows_in(annotations, "image")
    else:
        rows = coco_rows(annotations)
    asked = make(rows, caption_question)
    answers = read_results(results, asked, number="image_id")
    report(score_captions([each.answers for each in asked], answers, tokenizer), json)


def coco_rows(file: Path) -> Iterator[Row]:
    """COCO's captions by their photos."""
    said: dict[str, list[Any]] = defaultdict(list)
    for where, entry, _ in read_records(file, ("image_id", "caption"), "annotations"):
        if not is_id(entry["image_id"]):
            raise DataError(f"{where}: 'image_id' must be a number or text")
        said[str(entry["image_id"])].append(entry["caption"])
    for number, texts in said.items():
        yield Row(f"{file}: image {number}", {"image": number, "captions": texts}, b"")


def caption_question(row: dict[str, Any], image: Any) -> Question:
    return Question(str(row["image"]), image, "", texts_in(row, "captions"))


def rows_in(file: Path, key: str = "question_id") -> Iterator[Row]:
    """The objects of a file, each with an id of its own under `key`."""
    for number, entry in by_id(file, objects(file), key).items():
        yield Row(f"{file}: question {number}", entry, b"")


def unseen(rows: Iterable[Row]) -> Iterator[Row]:
    """A benchmark's rows to be scored: their photos are not looked at, their texts not needed."""
    for where, content, image in rows:
        yield Row(where, {"question": "", **content}, None if image is None else b"")


def report(scores: Scores, json: bool) -> None:
    found = scores.to_json()
    if json:
        print(dumps(found, ensure_ascii=False))
        return
    title = f"{scores.metric}, {len(scores.each):,} questions"
    Console().print(table_of(title, ["score"], [found]))
