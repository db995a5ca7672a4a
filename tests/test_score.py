"""`vlm score`: the official files in, figures out, and what is said of files that do not fit."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlm.cli import main

VQA_QUESTIONS = {
    "questions": [
        {"question_id": number, "image_id": 1, "question": "What?"} for number in range(1, 4)
    ]
}
VQA_ANNOTATIONS = {
    "annotations": [
        {
            "question_id": number,
            "question_type": "what",
            "answer_type": kind,
            "answers": [{"answer": answer, "answer_id": 1} for answer in answers],
        }
        for number, kind, answers in [
            (1, "other", ["red"] * 9 + ["blue"]),
            (2, "yes/no", ["yes"] * 10),
            (3, "number", ["2"] * 5 + ["two"] * 5),
        ]
    ]
}
VQA_RESULTS = [
    {"question_id": 3, "answer": "Two"},
    {"question_id": 1, "answer": "blue"},
    {"question_id": 2, "answer": "yes"},
]
VQA = {"questions": VQA_QUESTIONS, "annotations": VQA_ANNOTATIONS, "results": VQA_RESULTS}


class Folder:
    """Writes files and scores them."""

    def __init__(self, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self.capsys = capsys

    def write(self, **files: Any) -> list[str]:
        """Files as options: JSON, or text as it is."""
        options = []
        for name, content in files.items():
            file = self.path / f"{name}.json"
            text = content if isinstance(content, str) else json.dumps(content)
            file.write_text(text, encoding="utf-8")
            options += [f"--{name}", str(file)]
        return options

    def score(self, metric: str, *options: str, **files: Any) -> dict[str, Any]:
        assert main(["score", metric, *self.write(**files), *options, "--json"]) == 0
        return json.loads(self.capsys.readouterr().out)

    def refuse(self, metric: str, *options: str, **files: Any) -> str:
        assert main(["score", metric, *self.write(**files), *options]) == 1
        return self.capsys.readouterr().err.replace(f"{self.path}/", "")

    def refuse_vqa(self, **files: Any) -> str:
        return self.refuse("vqa", **VQA | files)


@pytest.fixture
def folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Folder:
    return Folder(tmp_path, capsys)


def test_vqa(folder: Folder) -> None:
    scores = folder.score("vqa", **VQA)
    assert scores["overall"] == 76.67
    assert scores["questions"] == 3
    assert scores["per_answer_type"] == {"number": 100, "other": 30, "yes/no": 100}
    assert scores["per_question_type"] == {"what": 76.67}


def test_vqa_scores_the_file_as_it_stands(folder: Folder) -> None:
    said = [{"question_id": n, "answer": "Yes"} for n in (1, 2, 3)]
    assert folder.score("vqa", **VQA | {"results": said})["per_answer_type"]["yes/no"] == 0


def lines(*rows: object) -> str:
    return "\n".join(map(json.dumps, rows))


def test_answers_as_llava_and_its_forks_write_them(folder: Folder) -> None:
    said = [
        {"question_id": one["question_id"], "prompt": "What?\nBriefly.", "text": one["answer"]}
        for one in VQA_RESULTS
    ]
    assert folder.score("vqa", **VQA | {"results": lines(*said)})["overall"] == 76.67
    # Our own `predictions.jsonl`.
    own = [{"question_id": one["question_id"], "prediction": one["text"]} for one in said]
    assert folder.score("vqa", **VQA | {"results": lines(*own)})["overall"] == 76.67


TEXTVQA = {
    "dataset_name": "textvqa",
    "data": [
        {"question_id": n, "image_id": image, "question": text, "answers": [answer] * 10}
        for n, image, text, answer in [
            (1, "0a", "What brand?", "nokia"),
            (2, "0a", "What brand? And year", "1999"),
            (3, "0b", "What brand?", "sony"),
        ]
    ],
}


def test_textvqa_as_published(folder: Folder) -> None:
    said = {1: "Nokia.", 2: "2000", 3: "Sony?"}
    official = [{"question_id": n, "answer": text} for n, text in said.items()]
    scores = folder.score("vqa", questions=TEXTVQA, results=official)
    assert (scores["overall"], scores["metric"]) == (66.67, "VQA accuracy, textvqa")
    assert folder.score("vqa", annotations=TEXTVQA, results=official) == scores
    # LLaVA's: two answers to one photo, told apart by what was asked.
    asked = TEXTVQA["data"]
    llava = [
        {
            "question_id": row["image_id"],
            "prompt": f"{row['question']}\nReference OCR token: NOKIA\nAnswer in a word.",
            "text": said[row["question_id"]],
        }
        for row in (asked[2], asked[1], asked[0])
    ]
    assert folder.score("vqa", questions=TEXTVQA, results=lines(*llava)) == scores
    llava[0]["prompt"] = "Who?"
    assert "line 1: no question about the photo 0b is in its prompt" in folder.refuse(
        "vqa", questions=TEXTVQA, results=lines(*llava)
    )
    only = folder.score("vqa", "--variant", "official", questions=TEXTVQA, results=official)
    assert (only["overall"], only["metric"]) == (0, "VQA accuracy, official")


def test_vizwiz_as_published(folder: Folder) -> None:
    answers = [{"answer": text, "answer_confidence": "yes"} for text in ["can"] * 9 + ["tin"]]
    asked = [
        {"image": f"VizWiz_val_{n}.jpg", "question": "What?", "answers": answers, "answerable": 1}
        for n in range(2)
    ]
    asked[0]["answer_type"] = "other"
    results = [{"image": one["image"], "answer": "The can"} for one in reversed(asked)]
    scores = folder.score("vqa", questions=asked, results=results)
    assert (scores["overall"], scores["per_answer_type"]) == (100, {"other": 100})
    llava = [{"question_id": one["image"], "text": "tin"} for one in asked]
    assert folder.score("vqa", questions=asked, results=lines(*llava))["overall"] == 30


@pytest.mark.parametrize("files", [{}, {"questions": VQA_QUESTIONS}, {"annotations": {}}])
def test_vqa_without_one_of_its_files(folder: Folder, files: dict[str, Any]) -> None:
    told = folder.refuse("vqa", results=VQA_RESULTS, **files)
    assert "--questions and --annotations go together for VQA v2" in told


def test_vqa_as_textvqa(folder: Folder) -> None:
    shouted = [entry | {"answer": entry["answer"].upper()} for entry in VQA_RESULTS]
    files = VQA | {"results": shouted}
    assert folder.score("vqa", **files)["overall"] == 43.33
    assert folder.score("vqa", "--variant", "textvqa", **files)["overall"] == 76.67


def test_a_table(folder: Folder) -> None:
    assert main(["score", "vqa", *folder.write(**VQA)]) == 0
    shown = folder.capsys.readouterr().out
    assert "VQA accuracy, official, 3 questions" in shown
    assert "76.67" in shown
    assert "answer_type: yes/no" in shown


def test_gqa(folder: Folder) -> None:
    questions = {
        "07": {
            "answer": "yes",
            "types": {"structural": "verify", "semantic": "obj"},
            "entailed": ["08"],
        },
        "08": {"answer": "dog", "types": {"structural": "query", "semantic": "obj"}},
    }
    results = [
        {"questionId": "08", "prediction": "Dog."},
        {"questionId": "07", "prediction": "yes"},
    ]
    scores = folder.score("gqa", questions=questions, results=results)
    assert (scores["overall"], scores["consistency"]) == (100, 100)


def test_pope(folder: Folder) -> None:
    options = []
    for split, answers in (("random", ["Yes.", "no"]), ("popular", ["No", "no"])):
        given = [{"question_id": n, "text": text} for n, text in enumerate(answers, start=1)]
        _, asked, _, said = folder.write(**{f"coco_pope_{split}": POPE, split: given})
        options += ["--questions", asked, "--results", said]
    assert main(["score", "pope", *options, "--json"]) == 0
    scores = json.loads(folder.capsys.readouterr().out)
    assert scores["per_split_f1"] == {"random": 100, "popular": 0}
    assert main(["score", "pope", *options[:-2]]) == 1
    assert "2 files of questions but 1 of results" in folder.capsys.readouterr().err
    assert main(["score", "pope", *options[:4], *options[:4]]) == 1
    assert "two files for the split 'random'" in folder.capsys.readouterr().err
    assert "1 questions with 'label' that is neither yes nor no: 1" in folder.refuse(
        "pope", questions=[POPE[0] | {"label": "maybe"}], results=[]
    )


POPE = [
    {
        "question_id": n,
        "image": "a.jpg",
        "text": f"Is there a {thing} in the image?",
        "label": label,
    }
    for n, thing, label in [(1, "cat", "yes"), (2, "dog", "no")]
]


def test_pope_as_published_without_ids(folder: Folder) -> None:
    official = [
        {"question": one["text"].lower(), "answer": one["label"].capitalize()} for one in POPE
    ]
    scores = folder.score("pope", questions=lines(*POPE), results=lines(*official))
    assert scores["overall"] == 100
    assert "1 entries with no 'question_id': 1" in folder.refuse(
        "pope", questions=lines(*POPE), results=lines(*official[:1])
    )


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "Is there a bus in the image?\nAnswer briefly.", "text": "no"},
        {"question": "is there a bus in the image?", "answer": "no"},
        {"text": "Is there a bus in the image?", "answer": "no"},
    ],
)
def test_answers_to_another_file_of_pope(folder: Folder, other: dict[str, str]) -> None:
    results = [{"question_id": 1, "answer": "yes"}, {"question_id": 2, **other}]
    told = folder.refuse("pope", questions=lines(*POPE), results=lines(*results))
    assert "results.json: the answer to question 2 is to 'is there a bus" in told.lower()
    assert told.endswith("is it to another file of POPE?\n")


def test_questions_of_pope_are_no_answers(folder: Folder) -> None:
    told = folder.refuse("pope", questions=lines(*POPE), results=lines(*POPE))
    assert "'text' of question 1 is the question, not an answer" in told


def test_scienceqa(folder: Folder) -> None:
    problem = {
        "choices": ["iron", "wood"],
        "answer": 1,
        "subject": "natural science",
        "grade": "grade8",
        "hint": "",
        "image": "image.png",
        "split": "test",
    }
    problems = {"5": problem, "6": problem | {"split": "val"}}
    results = [{"question_id": "5", "answer": "B. wood"}]
    scores = folder.score("scienceqa", questions=problems, results=results)
    assert scores["overall"] == 100
    assert scores["per_context"] == {"image": 100}
    assert scores["per_grade"] == {"7-12": 100}
    for said in (
        [{"question_id": "5", "prompt": "Which?", "text": "The answer is B because"}],
        # As ScienceQA and LLaVA write it: the number of the option, over several lines.
        json.dumps({"args": {"seed": 3}, "results": {"5": 1}, "outputs": {"5": "no"}}, indent=2),
    ):
        assert folder.score("scienceqa", questions=problems, results=said) == scores
    none = {"results": {"5": -1}}
    assert folder.score("scienceqa", questions=problems, results=none)["overall"] == 0
    assert "results of problem 5: the number of an option, or -1, is needed" in folder.refuse(
        "scienceqa", questions=problems, results={"results": {"5": "B"}}
    )
    assert "no problem of split 'train'" in folder.refuse(
        "scienceqa", "--split", "train", questions=problems, results=results
    )
    assert "problem 5: not as it should be: 'choices' (at most 5)" in folder.refuse(
        "scienceqa", questions={"5": problem | {"answer": 2}}, results=results
    )
    for none in ({}, [problem]):
        assert "questions.json: an object of objects by their ids is needed" in folder.refuse(
            "scienceqa", questions=none, results=results
        )
    assert "questions.json: 1 entries with no object: 5" in folder.refuse(
        "scienceqa", questions={"5": [problem]}, results=results
    )


def test_choice(folder: Folder) -> None:
    questions = [
        {"question_id": 1, "options": {"A": "cat", "B": "dog"}, "answer": "A", "group": 1},
        {"question_id": 2, "options": ["dog", "cat"], "answer": "B", "group": 1},
    ]
    results = [{"question_id": 1, "answer": "A"}, {"question_id": 2, "answer": "A"}]
    assert folder.score("choice", questions=questions, results=results)["overall"] == 0
    assert "question 1: not as it should be: options that are texts, and" in folder.refuse(
        "choice", questions=[questions[0] | {"answer": "C"}], results=results
    )
    assert "question 1: not as it should be: options that are texts, and" in folder.refuse(
        "choice", questions=[{"question_id": 1, "answer": "A"}], results=results
    )
    kinds = zip(questions, (0, "animals"), strict=True)
    alone = [one | {"category": kind, "group": None} for one, kind in kinds]
    scores = folder.score("choice", questions=alone, results=results)
    assert scores["per_category"] == {"0": 100, "animals": 0}
    listed = [questions[0], questions[1] | {"category": ["animals"]}]
    many = [questions[0], questions[1] | {"options": ["cat"] * 27}]
    for wrong, told in ((listed, "a category that is no text"), (many, "27 options, more than")):
        refused = folder.refuse("choice", questions=wrong, results=results)
        assert f"question 2: not as it should be: {told}" in refused


def test_exact(folder: Folder) -> None:
    questions = [
        {"question_id": "a", "answers": ["chair", "table"], "split": "test", "kind": "what"},
        {"question_id": "b", "answers": ["2"], "split": "train"},
    ]
    results = [{"question_id": "a", "answer": "Table, chair"}]
    scores = folder.score("exact", "--split", "test", questions=questions, results=results)
    assert (scores["overall"], scores["per_kind"]) == (100, {"what": 100})
    assert "no question of split 'val'" in folder.refuse(
        "exact", "--split", "val", questions=questions, results=results
    )
    assert "question a: not as it should be: a list 'answers'" in folder.refuse(
        "exact", questions=[{"question_id": "a", "answers": "2"}], results=results
    )


def test_captions(folder: Folder) -> None:
    annotations = {
        "annotations": [
            {"image_id": 1, "id": 1, "caption": "A red bus on the road."},
            {"image_id": 1, "id": 2, "caption": "A bus."},
            {"image_id": 2, "id": 3, "caption": "Two dogs run on a beach."},
        ]
    }
    results = [
        {"image_id": 2, "caption": "two dogs run on a beach"},
        {"image_id": 1, "caption": "a red bus on the road"},
    ]
    scores = folder.score("captions", annotations=annotations, results=results)
    assert scores["bleu_4"] == 100
    assert scores["overall"] > 100
    texts = lines(
        {"image": "1", "captions": ["A red bus on the road.", "A bus."]},
        {"image": "2", "captions": ["Two dogs run."]},
    )
    strings = [entry | {"image_id": str(entry["image_id"])} for entry in results]
    assert folder.score("captions", annotations=texts, results=strings)["questions"] == 2
    one = {"annotations": annotations["annotations"][:1]}
    scores = folder.score("captions", annotations=one, results=results[1:])
    assert (scores["overall"], scores["bleu_1"]) == (None, 100)
    assert main(["score", "captions", *folder.write(annotations=one, results=results[1:])]) == 0
    shown = " ".join(folder.capsys.readouterr().out.split())
    assert "undefined" in shown
    assert "the idf of a single document is 0" in shown
    assert "annotations.json, record 1: caption missing; found image_id, expected" in folder.refuse(
        "captions", annotations=[{"image_id": 1}], results=results
    )
    blank = [{"image_id": 1, "caption": " "}, {"image_id": 2, "caption": "."}]
    assert "all captions to compare with are blank" in folder.refuse(
        "captions", annotations=blank, results=results
    )
    nameless = [{"image_id": None, "caption": "A bus."}]
    assert "annotations.json, record 1: 'image_id' must be a number or text" in folder.refuse(
        "captions", annotations=nameless, results=results
    )


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (VQA_RESULTS[:1], "results.json: 2 questions with no answer: 1, 2"),
        (
            [*VQA_RESULTS, *({"question_id": n, "answer": ""} for n in range(10, 17))],
            "results.json: 7 answers with no such question: 10, 11, 12, 13, 14 and 2 more",
        ),
        (VQA_RESULTS * 2, "results.json: 3 ids with 'question_id' twice: 3, 1, 2"),
        (
            [*VQA_RESULTS, {"question_id": "2", "answer": "no"}],
            "results.json: 1 ids with 'question_id' twice: 2",
        ),
        (
            [*VQA_RESULTS[:2], {"question_id": 2, "answer": 5}],
            "results.json: 1 questions with 'answer' that is no text: 2",
        ),
        ([*VQA_RESULTS[:2], {"question_id": 2}], "1 questions with 'answer' that is no text: 2"),
        ([{"answer": "yes"}], "results.json: 1 entries with no 'question_id': 1"),
        ([{"question_id": True, "answer": "yes"}], "1 entries with no 'question_id': 1"),
        ([1, 2], "results.json, record 1: a JSON object is needed, not int"),
        ("3", "results.json, line 1: a JSON object is needed, not int"),
        ("[]", "results.json is empty"),
        ("[{", "results.json: not JSON"),
        ('{"question_id": 1, "answer": "a"}\n{"question_id', "results.json, line 2: not JSON"),
        ("[" * 100_000, "results.json: not JSON: maximum recursion depth"),
    ],
)
def test_results_that_do_not_fit(folder: Folder, results: Any, message: str) -> None:
    assert message in folder.refuse_vqa(results=results)


def test_annotations_that_do_not_fit(folder: Folder) -> None:
    other = {
        "annotations": [
            entry | {"question_id": 100 + entry["question_id"]}
            for entry in VQA_ANNOTATIONS["annotations"]
        ]
    }
    told = folder.refuse_vqa(annotations=other)
    assert "annotations.json: 3 questions with no annotation: 1, 2, 3" in told
    first, *rest = VQA_ANNOTATIONS["annotations"]
    for broken, message in (
        ({"answers": []}, "a list 'answers' of two or more texts is needed"),
        ({"answers": ["red"] * 10}, "question 1 needs a list 'answers'"),
        ({"answer_type": 3}, "question 1: not as it should be: an answer or its kind is"),
    ):
        told = folder.refuse_vqa(annotations={"annotations": [first | broken, *rest]})
        assert message in told
    asked = [one | {"image_id": None} for one in VQA_QUESTIONS["questions"]]
    told = folder.refuse_vqa(questions={"questions": asked})
    assert "3 questions with 'image_id' that is neither number nor text: 1, 2, 3" in told
    told = folder.refuse_vqa(annotations={"questions": []})
    assert "annotations.json: a list of objects under 'annotations' is needed" in told


def test_a_byte_order_mark_is_passed_over(folder: Folder) -> None:
    for results in (json.dumps(VQA_RESULTS), lines(*VQA_RESULTS)):
        files = {**VQA, "results": results}
        files = {n: f if isinstance(f, str) else json.dumps(f) for n, f in files.items()}
        marked = {name: "\ufeff" + text for name, text in files.items()}
        assert folder.score("vqa", **marked)["overall"] == 76.67


@pytest.mark.parametrize("answer", ["", "猫 \u202e\U0001f600 é"])
def test_answers_of_any_text_are_scored(folder: Folder, answer: str) -> None:
    results = [entry | {"answer": answer} for entry in VQA_RESULTS]
    assert folder.score("vqa", **VQA | {"results": results})["overall"] == 0


def test_files_that_cannot_be_read(folder: Folder) -> None:
    options = folder.write(questions=VQA_QUESTIONS, annotations=VQA_ANNOTATIONS)
    absent = folder.path / "absent.json"
    assert main(["score", "vqa", *options, "--results", str(absent)]) == 1
    assert "absent.json: No such file or directory" in folder.capsys.readouterr().err
    absent.write_bytes(b"[\xff\xfe")
    assert main(["score", "vqa", *options, "--results", str(absent)]) == 1
    assert "absent.json: not UTF-8 text" in folder.capsys.readouterr().err
