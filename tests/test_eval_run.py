"""`vlm eval`: the same answers however they are asked, on the disk as they come, resumed after a
kill."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import PartialState

import vlm
from eval import run
from eval.answerers import Answer, BlindAnswerer, MajorityAnswerer, ModelAnswerer
from eval.benchmark import Benchmark
from eval.benchmarks import BENCHMARKS
from eval.config import EvalConfig
from eval.metrics.exact import exact_match
from eval.predictions import Prediction, answer_all, in_order, read_predictions
from eval.question import Question
from eval.run import load
from tests import tiny, tiny_folders
from vlm.cli import main
from vlm.data.source import Columns
from vlm.errors import ConfigError, DataError
from vlm.files import append_rows


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    folder.mkdir()
    for number in range(4):
        tiny.photo(number).save(folder / f"{number}.png")
    return folder


def questions_of(folder: Path) -> list[Question]:
    texts = ["What?", "What is in the picture?", "A cat?"]
    return [
        Question(f"{photo}{place}", folder / f"{photo}.png", text, (f"{photo}",), {"kind": text})
        for place, text in enumerate(texts)
        for photo in range(4)
    ]


TINY = Benchmark(
    name="tiny",
    title="tiny, exact match",
    splits=("test", "val"),
    layout="photos",
    load=lambda folder, split: questions_of(folder),
    max_tokens=6,
    metric="exact match",
    each=lambda question, answer: float(exact_match(answer, question.answers[0])),
)


class Named:
    """Answers with the name of the photo, up to a number of questions."""

    def __init__(self, until: int = 1000) -> None:
        self.until = until
        self.asked: list[str] = []

    def answer(self, questions: Sequence[Question], max_tokens: int) -> Iterator[Answer]:
        for question in questions:
            if len(self.asked) == self.until:
                raise KeyboardInterrupt
            self.asked.append(question.id)
            yield Answer(Path(question.image).stem)


def test_questions_about_one_photo_are_neighbours_and_the_longest_come_first(
    photos: Path,
) -> None:
    questions = questions_of(photos)
    questions[3] = replace(questions[3], text="What is in the picture, in one sentence?")
    ordered = in_order(questions)
    assert sorted(q.id for q in ordered) == sorted(q.id for q in questions)
    names = [Path(question.image).stem for question in ordered]
    assert names == ["3"] * 3 + ["0"] * 3 + ["1"] * 3 + ["2"] * 3


def test_answers_come_back_in_the_order_of_the_questions(photos: Path) -> None:
    questions = questions_of(photos)
    found = answer_all(TINY, questions, Named(), photos / "p.jsonl", 5)
    assert [one.question_id for one in found] == [question.id for question in questions]
    assert [one.prediction for one in found] == [question.answers[0] for question in questions]
    assert len((photos / "p.jsonl").read_text().splitlines()) == len(questions)


@pytest.mark.parametrize(("until", "torn"), [(5, 0), (7, 0), (9, 1), (5, 30)])
def test_a_killed_run_ends_with_the_same_file(photos: Path, until: int, torn: int) -> None:
    questions = questions_of(photos)
    answer_all(TINY, questions, Named(), photos / "whole.jsonl", 5)
    file = photos / "killed.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer_all(TINY, questions, Named(until=until), file, 5)
    content = file.read_bytes()
    file.write_bytes(content[: len(content) - torn])
    again = Named()
    answer_all(TINY, questions, again, file, 5)
    assert file.read_bytes() == (photos / "whole.jsonl").read_bytes()
    assert len(again.asked) == len(questions) - 5 + bool(torn)
    nobody = Named(until=0)
    answer_all(TINY, questions, nobody, file, 5)
    assert not nobody.asked


def test_answers_to_other_questions_are_refused(photos: Path) -> None:
    questions = questions_of(photos)
    file = photos / "p.jsonl"
    answer_all(TINY, questions, Named(), file, 5)
    other = [replace(question, text="Who?") for question in questions]
    with pytest.raises(
        DataError,
        match=r"answers to 12 questions that are now worded otherwise, the first is "
        r"'What\?', now 'Who\?': give another --output$",
    ):
        answer_all(TINY, other, Named(), file, 5)
    with pytest.raises(
        DataError, match=r"answers to 4 other questions, the first is 'A cat\?': give another"
    ):
        answer_all(TINY, questions[:8], Named(), file, 5)
    file.write_text(file.read_text() * 2)
    with pytest.raises(DataError, match=r"line 13: a second answer to"):
        read_predictions(file)
    file.write_text('{"question_id": "1", "prediction": "a"}\n')
    with pytest.raises(DataError, match=r"line 1: no answer as this project writes it"):
        read_predictions(file)


@pytest.fixture(scope="module")
def model() -> vlm.VisionLanguageModel:
    return tiny.vision_language_model()


@pytest.mark.parametrize("settings", [{}, {"beams": 2}])
def test_answers_do_not_depend_on_the_batch(
    model: vlm.VisionLanguageModel, photos: Path, settings: dict[str, Any]
) -> None:
    questions = questions_of(photos)
    answers = []
    for size in (1, 3, 12):
        file = photos / f"{size}.jsonl"
        answerer = ModelAnswerer(model, batch_size=size, **settings)
        found = answer_all(TINY, questions, answerer, file, size)
        answers.append([one.prediction for one in found])
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0])) > 4


def test_without_its_photo_a_question_has_one_answer(
    model: vlm.VisionLanguageModel, photos: Path
) -> None:
    questions = questions_of(photos)
    blind = BlindAnswerer(model)
    answers = [*blind.answer(questions[:5], 6), *blind.answer(questions[5:], 6)]
    for question, answer in zip(questions, answers, strict=True):
        assert answer == Answer(model.chat(question.text, blind.mean, max_tokens=6))
    assert len(blind.known) == len({question.text for question in questions}) < len(questions)
    assert list(blind.answer(questions[:1], 1)) != answers[:1]


def test_a_conversation_is_answered_as_in_chat(
    model: vlm.VisionLanguageModel, photos: Path
) -> None:
    def text(words: str) -> dict[str, str]:
        return {"type": "text", "text": words}

    first, second = photos / "0.png", photos / "1.png"
    images = [{"type": "image", "image": one} for one in (first, second)]
    talk = (
        {"role": "system", "content": [text("Be kind.")]},
        {"role": "user", "content": [*images, text("What?")]},
        {"role": "assistant", "content": [text("A cat.")]},
        {"role": "user", "content": [text("A cat?")]},
    )
    blank = ({"role": "user", "content": [text("Hello")]},)
    questions = [
        Question("1", first, "A cat?", ("x",), talk=talk),
        Question("2", None, "Hello", ("x",), talk=blank),
        Question("3", first, "A cat?", ("x",)),
        Question("4", None, "A cat?", ("x",)),
    ]
    asked = [list(talk), list(blank), [{"role": "user", "content": [images[0], text("A cat?")]}]]
    expected = [Answer(model.chat(messages, max_tokens=6)) for messages in asked]
    expected.append(Answer("", "the question has no image"))
    assert list(ModelAnswerer(model).answer(questions, 6)) == expected
    assert len(set(BlindAnswerer(model).answer(questions[:3], 6))) == 3


def test_a_photo_that_cannot_be_read_is_an_error_of_its_questions(
    model: vlm.VisionLanguageModel, photos: Path
) -> None:
    (photos / "1.png").write_bytes(b"no picture")
    questions = questions_of(photos)
    whole = [question for question in questions if question.image != photos / "1.png"]
    answers = list(ModelAnswerer(model).answer(questions, 6))
    failed = [answer for answer in answers if answer.error]
    assert len(failed) == 3
    assert all("cannot read" in answer.error and not answer.text for answer in failed)
    kept = [answer for answer in answers if not answer.error]
    assert kept == list(ModelAnswerer(model).answer(whole, 6))
    broken = [question for question in questions if question not in whole]
    assert len(list(ModelAnswerer(model).answer(broken, 6))) == 3


def test_a_question_that_is_too_long_is_an_error_of_its_own(
    model: vlm.VisionLanguageModel, photos: Path
) -> None:
    questions = questions_of(photos)
    long = replace(questions[1], text="a " * 5000)
    first, failed, *others = ModelAnswerer(model).answer([questions[0], long, *questions[2:]], 6)
    assert (failed.text, "shorten the conversation" in failed.error) == ("", True)
    expected = list(ModelAnswerer(model).answer(questions, 6))
    assert [first, *others] == [expected[0], *expected[2:]]


def test_the_majority_answer_is_right_most_often() -> None:
    answers = [("a", "b"), ("b",), ("c", "c", "c")]
    questions = [Question(str(n), "x.png", "?", own) for n, own in enumerate(answers)]
    assert {a.text for a in MajorityAnswerer(questions).answer(questions, 6)} == {"b"}


@pytest.fixture
def evaluate(
    model: vlm.VisionLanguageModel,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., Any]:
    """The command on the tiny model and benchmark."""
    monkeypatch.setitem(BENCHMARKS, "tiny", TINY)
    monkeypatch.setattr(vlm, "load", lambda *_, **__: model)
    data = photos.parent

    def command(*options: str) -> Any:
        where = ["--data", str(data), "--output", str(data / "runs")]
        status = main(["eval", "tiny", *where, *options])
        told = capsys.readouterr()
        return (status, told.out, told.err)

    return command


def test_a_run_leaves_a_report_every_answer_and_a_page(
    evaluate: Callable[..., Any], photos: Path
) -> None:
    status, out, _ = evaluate("--baselines", "--json")
    assert status == 0
    reports = json.loads(out)
    everyone = ["embedded", "embedded, question only", "majority answer"]
    where = f"--data {photos.parent} --baselines --output {photos.parent / 'runs'}"
    assert {report["command"] for report in reports} == {f"vlm eval tiny {where} --json"}
    assert [report["who"] for report in reports] == everyone
    assert reports[2]["overall"] == 25
    assert reports[2]["interval_95"][0] < 25 < reports[2]["interval_95"][1]
    assert set(reports[2]["per_kind"]) == {"What?", "What is in the picture?", "A cat?"}
    folder = photos.parent / "runs" / "tiny"
    folders = [folder / re.sub("[, ]+", "-", who) for who in everyone]
    assert sorted(folder.iterdir()) == folders
    for own, report in zip(folders, reports, strict=True):
        assert json.loads((own / "report.json").read_text()) == report
        assert len((own / "predictions.jsonl").read_text().splitlines()) == 12
        page = (own / "report.html").read_text()
        assert "data:image/jpeg;base64," in page
        # Whoever's it is, beside everyone's figures, and with what made it.
        assert all(f">{who}</th>" in page for who in everyone)
        assert f"{photos.parent / 'runs'} --json</code>" in page
    shown = evaluate("--baselines")[1]
    assert "tiny, exact match, test, 12 asked" in shown
    assert "25.00" in shown


def test_a_run_is_resumed_only_as_it_began(evaluate: Callable[..., Any]) -> None:
    assert evaluate("--limit", "3")[0] == 0
    status, _, told = evaluate("--limit", "4")
    assert status == 1
    assert "holds a run with another limit: give another --output" in told
    status, _, told = evaluate("--limit", "3", "--beams", "2")
    assert status == 1
    assert "holds a run with other beams: give another --output" in told


def test_what_failed_is_asked_again(evaluate: Callable[..., Any], photos: Path) -> None:
    whole = photos.parent / "whole"
    assert evaluate("--output", str(whole))[0] == 0
    photo = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(b"no picture")
    status, out, _ = evaluate()
    assert status == 0
    assert f"embedded: 3 of 12 not answered, the first: cannot read '{photos}/1.png'" in out
    (photos / "1.png").write_bytes(photo)
    folder = photos.parent / "runs" / "tiny" / "embedded"
    # What a rewriting that was killed left.
    (folder / ".predictions.jsonl.partial").write_text("{")
    status, out, _ = evaluate()
    assert status == 0
    assert "not answered, the first" not in out
    assert "9 of 12 answers were there already" in out
    assert sorted((folder / "predictions.jsonl").read_text().splitlines()) == sorted(
        (whole / "tiny" / "embedded" / "predictions.jsonl").read_text().splitlines()
    )
    assert not (folder / ".predictions.jsonl.partial").exists()


def test_answers_that_cannot_be_rewritten_stay(photos: Path) -> None:
    file = photos / "p.jsonl"
    lines = [Prediction("0", None, "What?", "a", ()), Prediction("1", None, "What?", "", (), "no")]
    append_rows(file, map(asdict, lines))
    before = file.read_bytes()
    (photos / ".p.jsonl.partial").mkdir()
    with pytest.raises(DataError, match=r"cannot write .*/p\.jsonl: "):
        answer_all(TINY, questions_of(photos), Named(), file, 5)
    assert file.read_bytes() == before


def test_a_run_that_asks_nothing_says_so_and_keeps_its_seconds(
    evaluate: Callable[..., Any], photos: Path
) -> None:
    folder = photos.parent / "runs" / "tiny" / "embedded"
    status, out, _ = evaluate()
    assert status == 0
    assert f"embedded: {folder / 'report.html'}\n" in out
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, "seconds": 1234.5}))
    _, out, told = evaluate("--json")
    assert json.loads(out)[0]["seconds"] == 1234.5
    assert f"{folder / 'report.html'}, 12 of 12 answers were there already\n" in told
    answers = (folder / "predictions.jsonl").read_text().splitlines(keepends=True)
    (folder / "predictions.jsonl").write_text("".join(answers[:6]))
    _, out, told = evaluate("--json")
    assert 1234.5 <= json.loads(out)[0]["seconds"] < 1300
    assert "6 of 12 answers were there already\n" in told
    (folder / "report.json").write_text("[]")
    status, _, told = evaluate()
    assert status == 1
    assert f"{folder / 'report.json'}: not the report of a run: remove it" in told


def test_the_command_is_told_without_defaults_and_passwords() -> None:
    config = EvalConfig(["gqa", "a b.json"], model=None, limit=3, hub=True)
    config.endpoint, config.name = "https://me:secret@host:80/v1", "it"
    config.columns = Columns(question="q", answer="a")
    assert run.command_of(config) == (
        "vlm eval gqa 'a b.json' --model null --hub --limit 3 --columns.question q "
        "--columns.answer a "
        "--endpoint https://host:80/v1 --name it"
    )


@pytest.fixture
def checkpoints(tmp_path: Path) -> list[Path]:
    """Folders as training leaves them; the weights are those of `evaluate`'s model."""
    folders = [tmp_path / "train" / name / "checkpoint" for name in ("first", "second")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"name": str(folder)}))
    return folders


def test_a_checkpoint_is_called_as_its_training_run(
    evaluate: Callable[..., Any],
    photos: Path,
    checkpoints: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = checkpoints
    runs = photos.parent / "runs" / "tiny"
    for model in (first, second):
        status, out, _ = evaluate("--model", str(model), "--json")
        assert (status, json.loads(out)[0]["who"]) == (0, model.parent.name)
    monkeypatch.chdir(first)
    # Neither asks again: both are `first`.
    for model, folder in ((".", first), ("checkpoint", first.parent)):
        monkeypatch.chdir(folder)
        status, out, _ = evaluate("--model", model)
        assert status == 0
        assert f"first: {runs / 'first' / 'report.html'}, 12 of 12 answers were" in out
    assert sorted(path.name for path in runs.iterdir()) == ["first", "second"]


def test_only_a_models_own_run_is_tied_to_its_weights(
    evaluate: Callable[..., Any], photos: Path, checkpoints: list[Path]
) -> None:
    first, second = checkpoints
    assert evaluate("--baselines", "--model", str(first))[0] == 0
    status, out, _ = evaluate("--baselines", "--model", str(second))
    assert status == 0
    assert "majority-answer/report.html, 12 of 12 answers were there already" in out
    (first / "config.json").write_text("{}")
    status, _, told = evaluate("--model", str(first))
    assert status == 1
    assert "tiny/first holds a run with other weights: give another --output" in told


def test_a_server_is_not_given_the_answers_of_a_model_of_its_name(
    evaluate: Callable[..., Any],
) -> None:
    server = ["--endpoint", "http://127.0.0.1:9/v1", "--name", "embedded"]
    status, _, told = evaluate(*server)
    assert status == 1
    assert "--model and --name are both called embedded: ask the endpoint alone" in told
    assert evaluate()[0] == 0
    status, _, told = evaluate("--model", "null", *server)
    assert status == 1
    assert "embedded holds a run with other beams, other weights: give another --output" in told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "train"], "tiny has no split 'train': test, val"),
        (["--limit", "0"], "limit must be at least 1, not 0"),
        (["--batch_size", "0"], "batch_size must be at least 1, not 0"),
        (["--model", "null"], "nobody to ask"),
        (["--endpoint", "http://localhost"], "--endpoint and --name go together"),
        (["--prices", "2.5,10"], "--prices goes with --endpoint: nobody else counts tokens"),
        (["--endpoint", "localhost", "--name", "x"], "endpoint must begin with http://"),
        (["--compare", "x", "y"], "--compare needs two folders"),
        (["--load-in", "5bit"], "5bit"),
        (["--dtype", "int8"], "int8"),
        (["other"], "no benchmark 'other'; there are: vqav2, gqa,"),
        (["daquarr"], "no benchmark 'daquarr': did you mean daquar?"),
    ],
)
def test_what_cannot_be_run_is_said(
    evaluate: Callable[..., Any], options: list[str], message: str
) -> None:
    status, _, told = evaluate(*options)
    assert status == (2 if "see vlm eval --help" in told else 1)
    assert message in told


def test_a_model_is_loaded_as_it_is_asked_for(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vlm.build(tiny_folders.model_config(photos / "parts"), "cpu").save(photos / "model")
    state = PartialState(cpu=True)
    given = load(str(photos / "model"), state, EvalConfig(device="cpu", dtype="bfloat16"))
    assert given.language.dtype == torch.bfloat16
    line = {"image": "0.png", "question": "What?", "answers": ["A cat."]}
    (photos / "own.jsonl").write_text(json.dumps(line))
    words = ["eval", str(photos / "own.jsonl"), "--model", str(photos / "model"), "--json"]
    words += ["--output", str(photos / "out"), "--device", "cpu"]
    pytest.importorskip("bitsandbytes")
    given = load(str(photos / "model"), state, EvalConfig(load_in="8bit"))
    assert given.language.model.is_loaded_in_8bit
    assert main([*words, "--load-in", "4bit", "--dtype", "float32"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert (report["load_in"], report["dtype"]) == ("4bit", "float32")
    # Weights rounded otherwise answer otherwise.
    assert main(words) == 1
    told = capsys.readouterr().err
    assert "holds a run with another load_in, another dtype: give another --output" in told


def test_one_device_is_for_one_process() -> None:
    state = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    with pytest.raises(ConfigError, match="--device cuda:1 is for one process: of several, each"):
        load("embedded", state, EvalConfig(device="cuda:1"))


def test_data_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "gqa", "--data", str(tmp_path)]) == 1
    told = capsys.readouterr().err
    put = "put testdev_balanced_questions.json and images/ into"
    assert f"gqa is not in {tmp_path} (--data): {put}" in told


def test_without_a_benchmark_all_are_shown_with_what_they_need(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["eval"]) == 0
    shown = capsys.readouterr().out
    for benchmark in BENCHMARKS.values():
        assert f"│ {benchmark.name} " in shown
        assert benchmark.title in shown
    assert "DATA/gqa/: testdev_balanced_questions.json and images/" in shown
    assert "or --hub: lmms-lab-encoder/GQA" in shown
    # Two benchmarks that share a folder.
    assert shown.count("DATA/flickr8k/: captions.jsonl (image, captions, split) and") == 2
    assert "pip install 'vlm[eval]'" in shown
    assert main(["eval", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["benchmark"] for each in listed] == list(BENCHMARKS)
    assert listed[1] == {
        "benchmark": "gqa",
        "title": "GQA, accuracy",
        "folder": "gqa",
        "content": "testdev_balanced_questions.json and images/",
        "hub": "lmms-lab-encoder/GQA",
    }
