"""Naming, and questions and captions of one's own."""

import base64
import json
import tarfile
from pathlib import Path

import datasets
import pytest

from eval.benchmarks.everyday import EVERYDAY
from eval.benchmarks.naming import NAMING
from eval.benchmarks.own import any_match, normalise, own
from eval.config import EvalConfig
from eval.run import benchmark_of
from tests import tiny
from tests.data_folders import png
from vlm.cli import main
from vlm.data.options import OPTION_LETTER
from vlm.errors import ConfigError, DataError

LINE = {"image": "0.png", "question": "What?", "answers": ["A cat.", "A pet."]}


def write(folder: Path, name: str, *lines: object) -> Path:
    for number in range(3):
        tiny.photo(number).save(folder / f"{number}.png")
    file = folder / name
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (" A dog.", "dog"),
        ("the  Red\tball ", "red ball"),
        ("An", "an"),
        ("Yes. ", "yes"),
        ("a the cat", "cat"),
        ("theatre", "theatre"),
        ("3.5", "3.5"),
        ("...", ""),
    ],
)
def test_answers_are_compared_without_case_article_and_full_stop(
    answer: str, expected: str
) -> None:
    assert normalise(answer) == expected


def test_any_of_the_answers_is_right() -> None:
    assert any_match("A red ball", ["Ball.", "The red ball."])
    assert not any_match("A blue ball", ["Ball.", "The red ball."])


def test_questions_of_ones_own(tmp_path: Path) -> None:
    what = {"kind": "what", "category": " pets", "type": 3, "question_type": ["a"]}
    kinds = [{"split": "train"}, {"split": "val", **what}, {"split": "val", "category": ""}]
    file = write(tmp_path, "mine.jsonl", *(LINE | kind for kind in kinds))
    benchmark = benchmark_of(str(file), EvalConfig())
    assert benchmark.name == f"{tmp_path.name}-mine"
    assert benchmark.splits == ("val", "train")
    questions = benchmark.questions(Path("nowhere"), None)
    assert [(q.id, q.text, q.image) for q in questions] == [
        ("2", "What?", tmp_path / "0.png"),
        ("3", "What?", tmp_path / "0.png"),
    ]
    scores = benchmark.score(questions, ["pet", "dog"])
    assert scores.overall == 50
    assert scores.groups == {
        "per_kind": {"what": 100},
        "per_category": {"pets": 100},
        "per_type": {"3": 100},
    }
    assert benchmark.each(questions[0], "the pet") == 1


def test_an_instruction_stands_behind_questions_of_ones_own(tmp_path: Path) -> None:
    benchmark = benchmark_of(
        str(write(tmp_path, "mine.jsonl", LINE)), EvalConfig(instruction="In a word.")
    )
    (question,) = benchmark.questions(Path(), None)
    assert question.text == "What?\nIn a word."
    with pytest.raises(ConfigError, match="--instruction is for data of your own: gqa has its own"):
        benchmark_of("gqa", EvalConfig(instruction="In a word."))


def test_photos_of_ones_own_outside_of_the_folder(tmp_path: Path) -> None:
    write(tmp_path, "any")
    (tmp_path / "in").mkdir()
    file = tmp_path / "in/mine.jsonl"
    file.write_text(json.dumps(LINE | {"image": str(tmp_path / "0.png")}))
    with pytest.raises(DataError, match="image path leaves its folder"):
        benchmark_of(str(file), EvalConfig())
    benchmark = benchmark_of(str(file), EvalConfig(outside=True, format="questions"))
    (question,) = benchmark.questions(Path(), None)
    assert question.image == tmp_path / "0.png"
    with pytest.raises(ConfigError, match="--outside is for data of your own: gqa has its own"):
        benchmark_of("gqa", EvalConfig(outside=True))


def test_a_folder_is_read_as_in_training(tmp_path: Path) -> None:
    tiny.photo(0).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a cat\na pet\n")
    for each, answers in ((False, ("a cat\na pet",)), (True, ("a cat", "a pet"))):
        benchmark = benchmark_of(str(tmp_path), EvalConfig(caption_per_line=each))
        assert benchmark.questions(Path(), None)[0].answers == answers
    with pytest.raises(ConfigError, match="--subset is for data of your own: gqa has its own"):
        benchmark_of("gqa", EvalConfig(subset="dogs"))


def test_options_of_ones_own(tmp_path: Path) -> None:
    line = {"image": "0.png", "question": "Which?", "choices": ["cat", "dog"], "answer": 1}
    benchmark = own(write(tmp_path, "mine.jsonl", line, LINE), "In a word.")
    question, other = benchmark.questions(Path(), None)
    assert question.text == "Which?\nA. cat\nB. dog\n" + OPTION_LETTER
    assert question.answers == ("B",)
    said = ("B", "B. dog", "The dog.", "A", "cat or dog")
    assert [benchmark.each(question, answer) for answer in said] == [1, 1, 1, 0, 0]
    assert benchmark.each(other, f"The {other.answers[0]}.") == 1


def test_an_instruction_that_changed_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "mine.jsonl", LINE, LINE)
    words = ["eval", str(file), "--model", "null", "--baselines", "--output", str(tmp_path / "o")]
    assert main([*words, "--instruction", "In a word."]) == 0
    capsys.readouterr()
    assert main([*words, "--instruction", "Briefly."]) == 1
    assert (
        "predictions.jsonl has answers to 2 questions that are now worded otherwise, the first is "
        r"'What?\nIn a word.', now 'What?\nBriefly.': give another --output"
    ) in capsys.readouterr().err


def test_a_split_that_a_file_does_not_have(tmp_path: Path) -> None:
    file = write(tmp_path, "mine.jsonl", LINE)
    with pytest.raises(DataError, match=r"/mine\.jsonl has no splits: leave --split test out$"):
        own(file).questions(Path(), "test")
    file = write(tmp_path, "split.jsonl", LINE | {"split": "val"}, LINE | {"split": "train"})
    with pytest.raises(DataError, match=r"/split\.jsonl has no split 'test': val, train$"):
        own(file).questions(Path(), "test")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data at .*none\.jsonl"):
        benchmark_of(str(tmp_path / "none.jsonl"), EvalConfig())


def test_captions_of_ones_own(tmp_path: Path) -> None:
    lines = [{"image": f"{n}.png", "captions": [f"a {w} runs"]} for n, w in enumerate("abc")]
    benchmark = own(write(tmp_path, "captions.jsonl", *lines))
    assert benchmark.splits == ("all",)
    questions = benchmark.questions(Path(), None)
    assert len(questions) == 3
    scores = benchmark.score(questions, ["a a runs", "a b runs", "a c runs"])
    assert scores.more["bleu_1"] == pytest.approx(100)


def test_one_photo_has_no_cider_and_is_told_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, "captions.jsonl", {"image": "0.png", "captions": ["a cat runs"]})
    words = ["eval", str(file), "--model", "null", "--baselines", "--output", str(tmp_path / "o")]
    assert main(words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "overall │ undefined" in shown
    assert "the idf of a single document is 0" in shown
    (page,) = (tmp_path / "o").glob("*/*/report.html")
    assert "the idf of a single document is 0" in page.read_text()
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["overall"] is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image": "0.png"}, "captions, caption or text .* missing; found image"),
        (LINE | {"question": ""}, "blank question; .* line 1"),
        (LINE | {"question": " "}, "blank question; .* line 1"),
        (LINE | {"answers": []}, "answers?; .* line 1"),
        (LINE | {"answers": [None]}, "answer is not text; .* line 1"),
        (LINE | {"image": "../0.png"}, "image path leaves its folder"),
        (LINE | {"image": "9.png"}, r"missing image; .* 9\.png"),
        ("{", "is neither JSON, nor a table"),
    ],
)
def test_lines_that_are_broken(tmp_path: Path, line: object, message: str) -> None:
    file = write(tmp_path, "mine.jsonl", line)
    with pytest.raises(DataError, match=message):
        own(file).questions(Path(), None)


def test_one_broken_line_of_several_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "mine.jsonl", LINE, LINE | {"image": "9.png"})
    with pytest.raises(DataError, match=r"line 2: missing image 9\.png"):
        own(file).questions(Path(), None)


def llava(image: str, *said: str) -> dict[str, object]:
    turns = [{"from": "gpt" if n % 2 else "human", "value": text} for n, text in enumerate(said)]
    return {"image": image, "conversations": turns}


def test_whatever_is_trained_on_can_be_asked(tmp_path: Path) -> None:
    tiny.photo(0).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("a cat\na pet\n")
    (tmp_path / "t.csv").write_text("image,caption\n0.png,a cat\n")
    url = f"data:image/png;base64,{base64.b64encode(png(0)).decode()}"
    (tmp_path / "u.json").write_text(json.dumps([llava(url, "What?", "A cat.")]))
    talk = llava("0.png", "<image>\nWhat?", "A cat.") | {"category": "pets"}
    (tmp_path / "l.json").write_text(json.dumps([talk]))
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("0.png", "0.txt"):
            tar.add(tmp_path / name, name)
    coco = {"images": [{"id": 1, "file_name": "0.png"}]}
    coco["annotations"] = [{"image_id": 1, "caption": text} for text in ("a cat", "a pet")]
    (tmp_path / "c.json").write_text(json.dumps(coco))
    coco["annotations"] = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}]
    (tmp_path / "i.json").write_text(json.dumps({**coco, "categories": [{"id": 1, "name": "cat"}]}))
    photos = datasets.Dataset.from_dict({"image": [tiny.photo(0)] * 2, "caption": ["a cat"] * 2})
    photos = photos.cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": photos, "test": photos}).save_to_disk(str(tmp_path / "saved"))
    described, asked = "Describe the image.", "What?\nBriefly."
    there = "Is there a cat in the image?\nBriefly."
    for name, text, answers in (
        ("t.csv", described, ("a cat",)),
        ("l.json", asked, ("A cat.",)),
        ("u.json", asked, ("A cat.",)),
        ("i.json", there, ("yes",)),
        ("s.tar", described, ("a cat\na pet",)),
        ("c.json", described, ("a cat", "a pet")),
        ("saved", described, ("a cat",)),
    ):
        benchmark = own(tmp_path / name, "Briefly.")
        question, *_ = benchmark.questions(Path(), None)
        assert (question.text, question.answers) == (text, answers), name
        assert question.labels == {
            "l.json": {"category": "pets"},
            "i.json": {"kind": "is there"},
        }.get(name, {})
        assert question.photo().tobytes() == tiny.photo(0).tobytes()
        assert benchmark.splits == (("test", "train") if name == "saved" else ("all",))
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("0.png", "0.txt"):
        (tmp_path / name).rename(folder / name)
    assert own(folder).questions(Path(), None)[0].id == "0/0.png"


def test_conversations_are_asked_as_they_are_trained(tmp_path: Path) -> None:
    for number in range(2):
        tiny.photo(number).save(tmp_path / f"{number}.png")
    records = [
        llava("0.png", "<image>\nWhat?", "A cat.", "Why?", "So."),
        llava("", "Who?", "Me.") | {"image": []},
        llava("", "Is <image> as <image>?", "Yes.") | {"image": ["0.png", "1.png"]},
        llava("0.png", "Is <image> red?", "No."),
    ]
    (tmp_path / "l.json").write_text(json.dumps(records))
    questions = own(tmp_path / "l.json", "Briefly.").questions(Path(), None)
    assert [(one.id, one.answers) for one in questions] == [
        ("0/0.png", ("A cat.",)),
        ("0/0.png/1", ("So.",)),
        ("1/", ("Me.",)),
        ("2/0.png", ("Yes.",)),
        ("3/0.png", ("No.",)),
    ]
    talks = [one.messages(lambda image: {"text": f"<{image.name}>"}) for one in questions]
    assert [
        [(each["role"], "".join(part["text"] for part in each["content"])) for each in talk]
        for talk in talks
    ] == [
        [("user", "<0.png>What?\nBriefly.")],
        [("user", "<0.png>What?"), ("assistant", "A cat."), ("user", "Why?\nBriefly.")],
        [("user", "Who?\nBriefly.")],
        [("user", "Is <0.png> as <1.png>?\nBriefly.")],
        [("user", "Is <0.png> red?\nBriefly.")],
    ]


def test_an_image_folder_and_columns_of_ones_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "absent.jsonl")
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "t.csv"
    file.write_text("photo,q,a\n0.png,What?,cat\n1.png,What?,dog\n")
    columns = {"image": "photo", "question": "q", "answer": "a"}
    options = [f"--columns.{name}={column}" for name, column in columns.items()]
    words = ["eval", str(file), "--model", "null", "--baselines", "--output", str(tmp_path / "o")]
    assert main([*words, *options, "--images", str(tmp_path), "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["questions"], report["overall"]) == (2, 50)
    for wrong, told in (
        ([*options, "--images", "absent"], "no folder absent for the images of"),
        (options[1:2], "columns.question and columns.answer go together"),
        (["--columns.photo", "x"], "columns has no setting `photo`: there are image, text"),
    ):
        assert main([*words, *wrong]) > 0
        assert told in capsys.readouterr().err
    assert main(["eval", "gqa", "--images", str(tmp_path)]) == 1
    assert "--images is for data of your own: gqa has its own" in capsys.readouterr().err


def test_vqa_files_of_ones_own(tmp_path: Path) -> None:
    tiny.photo(0).save(tmp_path / "000000000001.jpg")
    asked = [{"question_id": n, "image_id": 1, "question": f"What {n}?"} for n in (1, 2)]
    (tmp_path / "q.json").write_text(json.dumps({"questions": asked}))
    said = [{"question_id": n, "answers": [{"answer": "net"}] * 2} for n in (1, 2)]
    (tmp_path / "a.json").write_text(json.dumps({"annotations": said}))
    benchmark = benchmark_of(str(tmp_path / "q.json"), EvalConfig(annotations=tmp_path / "a.json"))
    questions = benchmark.questions(Path(), None)
    assert [one.text for one in questions] == ["What 1?", "What 2?"]
    assert benchmark.score(questions, ["A net", "no"]).overall == 50


@pytest.mark.parametrize("name", ["someone/data", "data-{0..1}.tar", "shards/*.tar"])
def test_what_training_reads_is_no_name_of_a_benchmark(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    if name.endswith("tar"):
        (tmp_path / "shards").mkdir()
        tiny.photo(0).save(tmp_path / "0.png")
        (tmp_path / "0.txt").write_text("a cat")
        for file in ("data-0.tar", "data-1.tar", "shards/0.tar"):
            with tarfile.open(tmp_path / file, "w") as tar:
                tar.add("0.png")
                tar.add("0.txt")
        assert benchmark_of(name, EvalConfig()).questions(Path(), None)[0].answers == ("a cat",)
        return
    with pytest.raises(DataError, match="cannot read the data set 'someone/data'"):
        benchmark_of(name, EvalConfig())


def test_questions_stay_in_the_order_of_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "mine.jsonl", *(LINE | {"image": f"{n}.png"} for n in (0, 1, 0)))
    questions = own(file).questions(Path(), None)
    assert [(q.id, q.image.name) for q in questions] == [
        ("1", "0.png"),
        ("2", "1.png"),
        ("3", "0.png"),
    ]


def test_a_thing_may_be_named_by_any_of_its_words(tmp_path: Path) -> None:
    folder = tmp_path / "coco_small"
    folder.mkdir()
    captions = {"0.png": ["a cat"], "1.png": ["a train"], "2.png": ["people at a party"]}
    lines = [{"image": n, "captions": c, "split": "test"} for n, c in captions.items()]
    write(folder, "captions.jsonl", *lines)
    questions = NAMING.questions(tmp_path, "test")
    assert len(questions) == 4
    answers = ["A kitten.", "Two cats on a sofa", "A train station.", "A dog"]
    scores = NAMING.score(questions, answers)
    assert scores.overall == 50
    assert scores.to_json()["per_question"] == {"Describe the image.": 50, "What is this?": 50}
    assert scores.more["either"] == 50


def test_no_photo_with_a_main_thing(tmp_path: Path) -> None:
    folder = tmp_path / "coco_small"
    folder.mkdir()
    write(folder, "captions.jsonl", {"image": "0.png", "captions": ["people"], "split": "test"})
    with pytest.raises(DataError, match="none of 1 photos has a main thing"):
        NAMING.questions(tmp_path, "test")


def test_an_everyday_thing_is_named_by_its_label_or_its_captions(tmp_path: Path) -> None:
    folder = tmp_path / "everyday"
    folder.mkdir()
    calls = {"0.png": ("bird", "An ibis."), "1.png": ("oil lamp", "An oil lamp.")}
    calls["2.png"] = ("cat", "A cat.")
    lines = [{"image": n, "label": la, "captions": [c]} for n, (la, c) in calls.items()]
    write(folder, "labels.jsonl", *({**line, "split": "test"} for line in lines))
    (folder / "images").mkdir()
    questions = EVERYDAY.questions(tmp_path, None)
    answers = [
        "Two ibises.",
        "A plane.",
        "A lamp with oil.",
        "The oil-lamp.",
        "Concatenated.",
        "It",
    ]
    scores = EVERYDAY.score(questions, answers)
    assert scores.each == [1, 0, 0, 1, 0, 0]
    assert scores.more["either"] == pytest.approx(200 / 3)
