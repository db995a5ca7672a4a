"""GQA, ScienceQA, multiple choice, exact match, ANLS, relaxed accuracy: cases by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.benchmarks.aokvqa import direct_match
from eval.benchmarks.chartqa import CHART_QA, relaxed_match
from eval.benchmarks.choice import Options
from eval.benchmarks.choice import score as score_choices
from eval.benchmarks.daquar import DAQUAR
from eval.benchmarks.docvqa import DOC_VQA
from eval.benchmarks.gqa import GQA
from eval.benchmarks.scienceqa import SCIENCE_QA, read_letter
from eval.metrics.anls import anls, edit_distance
from eval.metrics.choice import read_choice
from eval.metrics.exact import exact_match
from eval.question import Question


def asked(answer: str, scored_as: object = None, number: str = "1", **labels: str) -> Question:
    """A question with a right answer."""
    return Question(number, "", "?", (answer,), labels, scored_as)


@pytest.mark.parametrize(
    ("prediction", "right"),
    [("dog", True), ("Dog.", True), ("a dog", False), ("dogs", False), ("", False)],
)
def test_gqa_compares_strings(prediction: str, right: bool) -> None:
    assert GQA.each(asked("dog"), prediction) == right


def test_gqa_by_type_and_consistency() -> None:
    questions = [
        GQA.question(
            {
                **{"id": number, "question": "?", "answer": answer, "entailed": entailed},
                "types": {"structural": structural, "semantic": semantic},
            },
            b"",
        )
        for number, answer, structural, semantic, entailed in [
            ("1", "yes", "verify", "obj", ["2", "3", "1", "404"]),
            ("2", "dog", "query", "attr", []),
            ("3", "no", "logical", "obj", ["2"]),
            ("4", "left", "query", "rel", ["1"]),
        ]
    ]
    scores = GQA.score(questions, ["Yes.", "cat", "no", "right"]).to_json()
    assert scores["overall"] == 50
    assert scores["per_openness"] == {"binary": 100, "open": 0}
    assert scores["per_structural_type"] == {"logical": 100, "query": 0, "verify": 100}
    assert scores["per_semantic_type"] == {"attr": 0, "obj": 100, "rel": 0}
    # Of what follows from 1, half is right (2 is wrong, 3 right); from 3, nothing; 4 is wrong.
    assert scores["consistency"] == 25


def test_gqa_without_entailments_has_no_consistency() -> None:
    scores = GQA.score([asked("yes", ())], ["yes"])
    assert "consistency" not in scores.to_json()


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B. a fish", "B"),
        ("The answer is B.", "B"),
        ("I think so. The answer is (C).", "C"),
        ("The answer is B. The answer is C.", None),
        # The script's dot is any character, but there must be one.
        ("The answer is B because of it", "B"),
        ("The answer is B", None),
        ("b", None),
        ("B) a fish", None),
        ("F", None),
        ("", None),
    ],
)
def test_how_scienceqa_reads_an_answer(text: str, letter: str | None) -> None:
    assert read_letter(text) == letter


def test_scienceqa_by_subject_context_and_grade() -> None:
    rows = [
        (2, 0, "natural science", 3, "hint", b""),
        (3, 2, "natural science", 7, "", b""),
        (2, 1, "social science", "grade6", "", None),
        # The option named is not there.
        (2, 1, "language science", "grade12", "hint", None),
    ]
    questions = [
        SCIENCE_QA.question(
            {
                **{"id": "1", "question": "", "choices": ["x"] * options, "answer": answer},
                **{"subject": subject, "grade": grade, "hint": hint},
            },
            image,
        )
        for options, answer, subject, grade, hint, image in rows
    ]
    scores = SCIENCE_QA.score(questions, ["A", "C. iron", "no idea", "C"]).to_json()
    assert scores["overall"] == 50
    assert scores["per_subject"] == {
        "language science": 0,
        "natural science": 100,
        "social science": 0,
    }
    assert scores["per_context"] == {"text": 50, "image": 100, "none": 0}
    assert scores["per_grade"] == {"1-6": 50, "7-12": 50}


OPTIONS = {"A": "cat", "B": "a red cat", "C": "dog"}


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("C", "C"),
        ("(C)", "C"),
        ("C. dog", "C"),
        ("C: a cat", "C"),
        ("It is the Dog.", "C"),
        # "a red cat" has a "cat" in it.
        ("a red cat", "B"),
        ("*A red cat.*", "B"),
        ("I see a red cat there", "B"),
        ("a cat, not a red cat", "B"),
        ("The cat", "A"),
        ("cat or dog", None),
        ("Dogged", None),
        ("D", None),
        ("", None),
        ("**", None),
        ("The answer is B.", "B"),
        ("Answer: B", "B"),
        ("**B**", "B"),
        ('"B"', "B"),
        ("# B", "B"),
        ("(b)", "B"),
        ("b. dog", "B"),
        ("Option B", "B"),
        ("The answer is B because it is.", "B"),
        # The article, unless a mark or the end follows, or it can be none.
        ("A dog", "C"),
        ("A: dog", "A"),
        ("The answer is a dog", "C"),
        ("Answer: A dog", "C"),
        ("The answer is A", "A"),
        ("The answer is A because of it", "A"),
        ("Option A fits", "A"),
        # Two letters.
        ("B or C", None),
        ("A and B", None),
        ("A B", None),
        # No letters.
        ("I'd say the dog", "C"),
        ("At 10 a.m. the dog", "C"),
    ],
)
def test_how_a_choice_is_read(text: str, letter: str | None) -> None:
    assert read_choice(text, OPTIONS) == letter


@pytest.mark.parametrize(
    ("text", "options", "letter"),
    [
        ("dark red", ["red", "dark red"], "B"),
        ("3.5", ["3", "3.5"], "B"),
        ("It is 3.5 m", ["5", "3"], None),
        ("C#", ["C", "C#"], "B"),
        # The text of an option comes first, even where it is another one's letter.
        ("A", ["B", "A"], "B"),
        ("B.", ["B", "A"], "A"),
        ("a", ["b", "a"], "B"),
        ("I think it is B.", list("stuvwxyzk"), "B"),
    ],
)
def test_options_that_are_like_one_another_or_like_letters(
    text: str, options: list[str], letter: str | None
) -> None:
    assert read_choice(text, dict(zip("ABCDEFGHI", options, strict=False))) == letter


marks = st.text(".(),:*\"'# ", max_size=3)


@given(letter=st.sampled_from("ABC"), before=marks, after=marks)
def test_a_letter_may_have_any_marks_around_it(letter: str, before: str, after: str) -> None:
    assert read_choice(f"{before}{letter}{after}", OPTIONS) == letter


def test_every_rotation_must_be_right() -> None:
    questions = [
        asked("A", Options({"A": "cat", "B": "dog"}, "1"), category="animals"),
        asked("B", Options({"A": "dog", "B": "cat"}, "1"), category="animals"),
        asked("A", Options({"A": "one", "B": "two"}, "2"), category="numbers"),
        asked("B", Options({"A": "two", "B": "one"}, "2"), category="numbers"),
    ]
    scores = score_choices(questions, ["A", "B", "A", "A"])
    assert scores.each == [1, 0]
    assert scores.to_json()["per_category"] == {"animals": 100, "numbers": 0}
    assert scores.metric == "multiple choice accuracy, circular"


def test_questions_without_rotations_count_for_themselves() -> None:
    scores = score_choices([asked("A", Options(OPTIONS))] * 2, ["A", "B"])
    assert (scores.overall, scores.metric) == (50, "multiple choice accuracy")


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        (" Table ", "table", True),
        ("table, chair", "chair, table", True),
        ("chair", "chair, table", False),
        ("chair, chair", "chair", True),
        ("a table", "table", False),
        ("table.", "table", False),
        ("", "table", False),
    ],
)
def test_exact_match_is_of_sets(prediction: str, answer: str, right: bool) -> None:
    assert exact_match(prediction, answer) == right


def test_exact_match_by_kind() -> None:
    questions = [asked("yes", kind="yes/no"), asked("blue", kind="colour"), asked("yes")]
    scores = DAQUAR.score(questions, ["yes", "red", "no"])
    assert scores.to_json()["per_kind"] == {"colour": 0, "yes/no": 100}
    assert scores.to_json()["overall"] == 33.33


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("Canada", ["canada"], 1),
        ("canade", ["canada"], 5 / 6),
        # Exactly half of it is right.
        ("12", ["13"], 0.5),
        ("cabb", ["caaa"], 0.5),
        ("cabbb", ["caaaa"], 0),
        # Spaces count in the length, not in the distance.
        (" Ab  c", ["ab d"], 5 / 6),
        ("a  b", [" a b "], 1),
        ("abcx", ["abcd", "wxyz"], 0.75),
        ("", ["a"], 0),
        ("", [""], 1),
    ],
)
def test_anls_by_hand(prediction: str, answers: list[str], expected: float) -> None:
    assert anls(prediction, answers) == pytest.approx(expected)


def test_anls_is_the_mean() -> None:
    scores = DOC_VQA.score([asked("abcd"), asked("a")], ["abcx", "b"])
    assert scores.overall == pytest.approx(37.5)


letters = st.text("abc", max_size=6)


@given(first=letters, second=letters, third=letters)
def test_edit_distance_is_a_metric(first: str, second: str, third: str) -> None:
    distance = edit_distance(first, second)
    assert (distance == 0) == (first == second)
    assert distance == edit_distance(second, first)
    assert distance <= edit_distance(first, third) + edit_distance(third, second)
    assert abs(len(first) - len(second)) <= distance <= max(len(first), len(second))


@pytest.mark.parametrize(
    ("prediction", "answer", "right"),
    [
        ("95", "100", True),
        ("94.9", "100", False),
        ("12%", "0.12", True),
        ("12", "12%", False),
        ("0.01", "0", False),
        ("0", "0", True),
        ("Blue", " blue", True),
        ("blu", "blue", False),
        ("-5", "-5.2", True),
        ("1e400", "5", False),
        # To Python a number, and unlike every other.
        ("nan", "nan", False),
    ],
)
def test_numbers_may_be_five_percent_off(prediction: str, answer: str, right: bool) -> None:
    assert relaxed_match(prediction, answer) == right


def test_relaxed_accuracy_by_kind() -> None:
    questions = [asked("100", kind="human"), asked("blue", kind="augmented")]
    scores = CHART_QA.score(questions, ["99", "red"])
    assert scores.to_json()["per_kind"] == {"augmented": 0, "human": 100}


@pytest.mark.parametrize(
    ("prediction", "worth"),
    [("net", 1), ("it", 2 / 3), ("fish", 1 / 3), ("Net", 0), ("nets", 0)],
)
def test_direct_answers_count_as_people_gave_them(prediction: str, worth: float) -> None:
    answers = ["net"] * 7 + ["it"] * 2 + ["fish"]
    assert direct_match(prediction, answers) == pytest.approx(worth)
