"""Every benchmark: its official layout, the exact prompt, the right answers, and broken files."""

import json
from pathlib import Path

import pytest

from eval.benchmarks import BENCHMARKS
from eval.question import Question
from tests.benchmark_folders import FOLDERS
from vlm.errors import DataError
from vlm.images import load_image

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
CAPTION = "Provide a one-sentence caption for the provided image."

# There are a dog and a cat; a dog and a couch; a ball and a dog. No photo has a plane, one person's
# word being too little, so that all kinds have the same two things left to choose.
POPE_FROM_CAPTIONS = [
    f"Is there a {thing} in the image?" + SHORT
    for things in (
        ["dog", "cat", "couch", "sports ball"],
        ["dog", "couch", "cat", "sports ball"],
        ["sports ball", "dog", "couch", "cat"],
    )
    for thing in things * 3
]

PROMPTS = {
    "vqav2": ["What is this?" + SHORT],
    "okvqa": ["What is this?" + SHORT],
    "gqa": ["Which color?" + SHORT],
    "textvqa": ["what brand?" + SHORT],
    "textvqa-ocr": ["what brand?\nReference OCR token: NOKIA, 3310" + SHORT],
    "vizwiz": [
        "What is it?\nWhen the provided information is insufficient, respond with 'Unanswerable'."
        + SHORT
    ],
    "pope": ["Is there a cat?" + SHORT, "Is there a dog?" + SHORT] * 3,
    "pope-captions": POPE_FROM_CAPTIONS,
    "counts": [f"How many {things} are in the image?" + SHORT for things in ("people", "dogs")],
    "scienceqa": ["Context: Some metals are.\nWhich is magnetic?\nA. iron\nB. wood" + LETTER],
    "mmbench": [
        "Look.\nWhat?\nA. cat\nB. dog" + LETTER,
        "Look.\nWhat?\nA. dog\nB. cat" + LETTER,
    ],
    "seed": ["What?\nA. a thing\nB. b thing\nC. c thing\nD. d thing" + LETTER],
    "ai2d": ["What is eaten?\nA. a\nB. b\nC. c\nD. d" + LETTER],
    "aokvqa": ["What?\nA. one\nB. two" + LETTER] * 2,
    "aokvqa-direct": ["What?" + SHORT],
    "docvqa": ["Date?" + SHORT],
    "chartqa": ["How many?" + SHORT] * 2,
    "mme": ["Is there a cat?" + SHORT, "Is there a dog?" + SHORT] * 2,
    "coco-captions": [CAPTION] * 2,
    "flickr30k": [CAPTION] * 2,
    "flickr8k": ["Describe the image."] * 2,
    "daquar": ["what is on the desk ?" + SHORT],
    "naming": ["What is this?", "Describe the image."],
    "everyday": ["What is this?", "Describe the image."],
}

FILES = {
    "vqav2": "v2_mscoco_val2014_annotations.json",
    "okvqa": "OpenEnded_mscoco_val2014_questions.json",
    "gqa": "testdev_balanced_questions.json",
    "textvqa": "TextVQA_0.5.1_val.json",
    "textvqa-ocr": "TextVQA_Rosetta_OCR_v0.2_val.json",
    "vizwiz": "val.json",
    "pope": "coco_pope_popular.json",
    "pope-captions": "captions.jsonl",
    "counts": "annotations/instances_val2017.json",
    "scienceqa": "problems.json",
    "mmbench": "mmbench_dev_20230712.tsv",
    "seed": "SEED-Bench.json",
    "ai2d": "questions/10.png.json",
    "aokvqa": "aokvqa_v1p0_val.json",
    "aokvqa-direct": "aokvqa_v1p0_val.json",
    "docvqa": "val_v1.0_withQT.json",
    "chartqa": "test/test_augmented.json",
    "mme": "existence/1.txt",
    "coco-captions": "dataset_coco.json",
    "flickr30k": "dataset_flickr30k.json",
    "flickr8k": "captions.jsonl",
    "daquar": "questions.jsonl",
    "naming": "captions.jsonl",
    "everyday": "labels.jsonl",
}


def load(name: str, data: Path) -> list[Question]:
    folder = data / (BENCHMARKS[name].folder or name)
    if not folder.exists():
        FOLDERS[name](folder)
    return BENCHMARKS[name].questions(data, None)


def test_every_benchmark_is_here() -> None:
    assert BENCHMARKS.keys() == PROMPTS.keys() | {"easy-vqa"} == FOLDERS.keys() | {"easy-vqa"}
    assert FILES.keys() == FOLDERS.keys()


@pytest.mark.parametrize("name", PROMPTS)
def test_the_prompt_is_exactly_this(name: str, tmp_path: Path) -> None:
    questions = load(name, tmp_path)
    assert [question.text for question in questions] == PROMPTS[name]
    assert len({question.id for question in questions}) == len(questions)


@pytest.mark.parametrize("name", sorted(PROMPTS.keys() - {"coco-captions", "flickr30k"}))
def test_the_photos_are_where_they_are_said_to_be(name: str, tmp_path: Path) -> None:
    for question in load(name, tmp_path):
        assert load_image(question.image).size == (40, 30)


@pytest.mark.parametrize("name", PROMPTS)
def test_right_answers_have_the_highest_score(name: str, tmp_path: Path) -> None:
    questions = load(name, tmp_path)
    benchmark = BENCHMARKS[name]
    answers = [question.answers[0] for question in questions]
    scores = benchmark.score(questions, answers)
    if benchmark.each is None:
        assert scores.more["bleu_1"] == pytest.approx(100)
        assert benchmark.score(questions, ["a"] * len(questions)).overall < scores.overall
        return
    assert scores.overall == pytest.approx(100)
    assert scores.to_json()["metric"]
    worth = [benchmark.each(*pair) for pair in zip(questions, answers, strict=True)]
    assert worth == pytest.approx([1] * len(questions))
    wrong = ["something else, no"] * len(questions)
    assert benchmark.score(questions, wrong).overall < 100


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("content", ["[{}]", '{"questions": [{}]}', "{", None])
def test_broken_files_are_named(name: str, content: str | None, tmp_path: Path) -> None:
    load(name, tmp_path)
    folder = BENCHMARKS[name].folder or name
    file = tmp_path / folder / FILES[name]
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    if name == "mme" and content is None:
        assert len(load(name, tmp_path)) == 2
        return
    with pytest.raises(DataError) as raised:
        load(name, tmp_path)
    assert folder in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize("name", PROMPTS)
def test_labels_are_the_breakdowns_of_the_report(name: str, tmp_path: Path) -> None:
    questions = load(name, tmp_path)
    report = BENCHMARKS[name].score(questions, [q.answers[0] for q in questions]).to_json()
    shown = {key.removeprefix("per_") for key, value in report.items() if isinstance(value, dict)}
    for label in {label for question in questions for label in question.labels}:
        assert any(each.startswith(label) for each in shown), (label, shown)


def test_easy_vqa_comes_with_its_package(tmp_path: Path) -> None:
    pytest.importorskip("easy_vqa")
    questions = BENCHMARKS["easy-vqa"].questions(tmp_path, None)
    assert len(questions) == 9673
    assert questions[0].text == "what is the red shape?" + SHORT
    assert {question.labels["kind"] for question in questions} == {"yes/no", "shape", "colour"}
    assert load_image(questions[-1].image).size == (64, 64)


def test_annotations_of_another_split_are_refused(tmp_path: Path) -> None:
    load("vqav2", tmp_path)
    file = tmp_path / "vqav2" / FILES["vqav2"]
    annotations = json.loads(file.read_text())
    annotations["annotations"][0]["question_id"] = 1
    file.write_text(json.dumps(annotations))
    with pytest.raises(DataError, match="1 questions with no annotation: 458752000"):
        load("vqav2", tmp_path)


def test_mmbench_rotates_only_what_the_table_does_not(tmp_path: Path) -> None:
    load("mmbench", tmp_path)
    file = tmp_path / "mmbench" / FILES["mmbench"]
    header, once = file.read_text().splitlines()
    rows = [once.replace("3", "5", 1), once, once.replace("3\t", "1000003\t", 1)]
    file.write_text("\n".join([header, *rows]) + "\n")
    questions = load("mmbench", tmp_path)
    assert [question.id for question in questions] == ["5_0", "5_1", "3", "1000003"]
    assert [question.scored_as.group for question in questions] == ["5", "5", "3", "3"]
    # One right of the two questions, because one rotation of the other is wrong.
    assert BENCHMARKS["mmbench"].score(questions, ["B", "A", "B", "A"]).overall == 50


@pytest.mark.parametrize(
    "names",
    [
        ["mmbench_dev_en_20231003.tsv"],
        ["MMBench_DEV_EN.tsv", "MMBench_TEST_EN.tsv"],
        ["mine.tsv"],
    ],
)
def test_mmbench_by_any_name_with_photos_named_by_other_rows(
    names: list[str], tmp_path: Path
) -> None:
    load("mmbench", tmp_path)
    file = tmp_path / "mmbench" / FILES["mmbench"]
    header, once = file.read_text().splitlines()
    other = once.replace("3\t", "4\t", 1).rpartition("\t")[0] + "\t3"
    file.unlink()
    for name in names:
        text = "\n".join([header, once, other] if name == names[0] else ["index"])
        (tmp_path / "mmbench" / name).write_text(text, encoding="utf-8-sig")
    questions = load("mmbench", tmp_path)
    assert [question.id for question in questions] == ["3_0", "3_1", "4_0", "4_1"]
    assert {load_image(question.image).size for question in questions} == {(40, 30)}


@pytest.mark.parametrize(
    ("names", "told"),
    [([], "holds no table: leave one there"), (["b_dev.tsv", "a_dev.tsv"], "a_dev.tsv, b_dev.tsv")],
)
def test_mmbench_needs_one_table(names: list[str], told: str, tmp_path: Path) -> None:
    (tmp_path / "mmbench").mkdir()
    for name in names:
        (tmp_path / "mmbench" / name).touch()
    with pytest.raises(DataError, match=told):
        load("mmbench", tmp_path)


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_a_byte_order_mark_is_passed_over(name: str, tmp_path: Path) -> None:
    before = load(name, tmp_path)
    for file in (tmp_path / (BENCHMARKS[name].folder or name)).rglob("*"):
        if file.suffix in (".json", ".jsonl", ".tsv", ".csv", ".txt"):
            file.write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert load(name, tmp_path) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("3\t", "x\t"), "line 2: 'index' must be a number"),
        (
            ("B\tanimals", "D\tanimals"),
            "line 2: .*: a question, options and answer are needed",
        ),
        (("animals\t", "animals\t?"), "line 2: the image is not base64"),
    ],
)
def test_a_broken_row_of_mmbench(change: tuple[str, str], told: str, tmp_path: Path) -> None:
    load("mmbench", tmp_path)
    file = tmp_path / "mmbench" / FILES["mmbench"]
    header, once = file.read_text().splitlines()
    assert change[0] in once
    file.write_text(f"{header}\n{once.replace(*change, 1)}\n")
    with pytest.raises(DataError, match=f"{told}$"):
        load("mmbench", tmp_path)


@pytest.mark.parametrize("name", ["ai2d", "mmbench", "mme"])
def test_a_text_that_is_not_utf_8(name: str, tmp_path: Path) -> None:
    load(name, tmp_path)
    file = tmp_path / name / {**FILES, "ai2d": "ai2d_test_ids.csv"}[name]
    file.write_bytes(file.read_bytes() + b"caf\xe9")
    with pytest.raises(DataError, match=f"^{file}: not UTF-8 text$"):
        load(name, tmp_path)


def test_a_diagram_without_questions(tmp_path: Path) -> None:
    before = load("ai2d", tmp_path)
    folder = tmp_path / "ai2d"
    (folder / "ai2d_test_ids.csv").write_text("9\n10\n")
    (folder / "questions" / "9.png.json").write_text('{"questions": {}}')
    assert load("ai2d", tmp_path) == before


def test_an_answer_that_is_no_text(tmp_path: Path) -> None:
    load("pope", tmp_path)
    file = tmp_path / "pope" / FILES["pope"]
    file.write_text(file.read_text().replace('"yes"', "true"))
    with pytest.raises(DataError, match=r"line 1: not as it should be: AttributeError 'bool'"):
        load("pope", tmp_path)


@pytest.mark.parametrize(("image", "stays"), [("a..b.jpg", True), ("../a.jpg", False), (3, False)])
def test_a_photo_stays_in_its_folder(image: object, stays: bool, tmp_path: Path) -> None:
    load("vizwiz", tmp_path)
    file = tmp_path / "vizwiz" / FILES["vizwiz"]
    file.write_text(json.dumps([json.loads(file.read_text())[0] | {"image": image}]))
    if stays:
        assert load("vizwiz", tmp_path)[0].image == tmp_path / "vizwiz" / "val" / str(image)
        return
    with pytest.raises(DataError, match="record 1: not as it should be"):
        load("vizwiz", tmp_path)
