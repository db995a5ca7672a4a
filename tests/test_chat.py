"""Chat: a conversation goes on whatever a user types, and each reader gets what it can read."""

import base64
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from transformers import CLIPImageProcessor

from tests import tiny
from vlm.chat import Conversation, clean, image_part, images_and_question, notice, prompt_loop
from vlm.cli import main
from vlm.config import LanguageConfig, ModelConfig, VisionConfig
from vlm.errors import ImageError, PromptError
from vlm.loading import build
from vlm.model import VisionLanguageModel


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny.vision_language_model()


@pytest.fixture
def conversation(model: VisionLanguageModel) -> Conversation:
    return Conversation(model, {"max_tokens": 4})


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    tiny.photo().save(path)
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of this project's own form, of tiny parts."""
    folder = tmp_path_factory.mktemp("model")
    tiny.clip_tower().model.save_pretrained(folder / "clip")
    side = {"height": tiny.IMAGE_SIZE, "width": tiny.IMAGE_SIZE}
    CLIPImageProcessor(size=side, do_center_crop=False).save_pretrained(folder / "clip")
    tiny.language_model().model.save_pretrained(folder / "llama")
    tiny.tokenizer().save_pretrained(folder / "llama")
    vision = VisionConfig(source=str(folder / "clip"))
    language = LanguageConfig(source=str(folder / "llama"))
    built = build(ModelConfig(vision=vision, language=language), device="cpu")
    built.save(folder / "checkpoint")
    return folder / "checkpoint"


def talk(conversation: Conversation, *lines: str, as_json: bool = False) -> tuple[str, str]:
    """What comes out, answers and notices, when these lines go in through a pipe."""
    answers, notices = io.StringIO(), io.StringIO()
    lines_in = io.StringIO("".join(f"{line}\n" for line in lines))
    prompt_loop(conversation, lines_in, answers, Console(file=notices, width=40), as_json)
    return answers.getvalue(), notices.getvalue()


@pytest.mark.parametrize(
    ("words", "images", "question"),
    [
        ([], [], None),
        (["missing.jpg"], ["missing.jpg"], None),
        (["What is it?"], [], "What is it?"),
        (["a.jpg", "b.jpg", "Describe!"], ["a.jpg", "b.jpg"], "Describe!"),
        (["a.jpg", "two dogs"], ["a.jpg"], "two dogs"),
        (["what now", "a.jpg"], ["a.jpg"], "what now"),
        (["What?", "a.jpg", "b.jpg"], ["a.jpg", "b.jpg"], "What?"),
        (["What is this?", "Is it?"], ["What is this?"], "Is it?"),
        (["-", "What?"], ["-"], "What?"),
        (["my photo.jpg", "What?"], ["my photo.jpg"], "What?"),
        (["a.jpg", "What is in a.jpg?"], ["a.jpg"], "What is in a.jpg?"),
        (["https://example.org/?"], ["https://example.org/?"], None),
        (["data:image/png;base64, x"], ["data:image/png;base64, x"], None),
    ],
)
def test_the_last_word_may_be_the_question(
    words: list[str], images: list[str], question: str | None
) -> None:
    assert images_and_question(words) == (images, question)


@pytest.mark.parametrize("blank", ["", "   ", "\n"])
def test_an_empty_question_is_no_photo(blank: str) -> None:
    with pytest.raises(PromptError, match=r"^the question is empty: leave it out for a prompt$"):
        images_and_question(["a.jpg", blank])


@pytest.mark.parametrize("word", ["describe", "my photo.jpg", "what is in a.jpg"])
def test_a_word_that_may_be_a_question_hears_how_one_ends(word: str) -> None:
    told = f"^cannot read '{word}': No such file or directory; a question is the last word or"
    with pytest.raises(ImageError, match=told):
        images_and_question(["a.jpg", word])
    assert images_and_question(["a.jpg", "describe."]) == (["a.jpg"], "describe.")


def test_a_file_without_an_ending_is_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photo").touch()
    assert images_and_question(["photo"]) == (["photo"], None)
    assert images_and_question(["photos/cat"]) == (["photos/cat"], None)


def test_a_file_that_is_there_is_never_the_question(tmp_path: Path) -> None:
    path = tmp_path / "who is this?"
    path.touch()
    assert images_and_question([str(path)]) == ([str(path)], None)


def test_each_question_sees_what_was_said_and_shown(
    conversation: Conversation, photo: Path
) -> None:
    answers, notices = talk(conversation, f"/image {photo}", "What is it?", "", "And now?")
    assert "40 x 30" in notices
    pixels = tiny.photo()
    first = conversation.model.chat("What is it?", [pixels], max_tokens=4)
    shown = [{"type": "image", "image": pixels}, {"type": "text", "text": "What is it?"}]
    messages = [
        {"role": "user", "content": shown},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "And now?"},
    ]
    second = conversation.model.chat(messages, max_tokens=4)
    assert answers == f"{clean(first)}\n{clean(second)}\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/image missing.jpg", "cannot read 'missing.jpg': No such file"),
        ("/image {folder}/empty.png", "it is empty"),
        ("/image {folder}/text.png", "not an image"),
        ("/image {folder}/truncated.png", "cannot be decoded"),
        ("/image {folder}", "it is a folder: name an image in it"),
        ("/image ftp://example.org/a.png", "URL scheme 'ftp'"),
        ("/image", "/image needs a path"),
        ("/image ''", "/image needs a path"),
        ("/image 'missing.jpg", 'cannot read "\'missing.jpg": No such file'),
        ("/save", "/save needs a path"),
        ("/save {folder}/text.png/chat.json", "text.png/chat.json: there is no folder"),
        ("/save {folder}", "Is a directory"),
        ("/save {folder}/none/chat.json", "none/chat.json: there is no folder"),
        ("/jump", "no command /jump, see /help"),
    ],
)
def test_bad_input_is_one_line_and_the_loop_goes_on(
    conversation: Conversation, photo: Path, line: str, message: str
) -> None:
    folder = photo.parent
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("no picture")
    (folder / "truncated.png").write_bytes(photo.read_bytes()[:500])
    reset = ["/reset"] if line.startswith("/image") else []
    answers, notices = talk(conversation, line.format(folder=folder), *reset, "Still there?")
    assert message in notices
    assert notices.count("\n") == 1 + len(reset)
    assert answers.count("\n") >= 1
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]


@pytest.mark.parametrize("command", ["/image missing.jpg", "/image", "/image {folder}"])
def test_a_question_is_not_answered_without_its_image(
    conversation: Conversation, photo: Path, command: str
) -> None:
    line = command.format(folder=photo.parent)
    answers, notices = talk(conversation, line, "One?", "Two?", f"/image {photo}", "Three?")
    assert notices.count("not asked: its image could not be read; /image gives one, or /reset") == 2
    assert clean(conversation.model.chat("Three?", tiny.photo(), max_tokens=4)) + "\n" == answers
    conversation.messages = []
    answers, _ = talk(conversation, line, "One?", "/reset", "Two?", as_json=True)
    first, second = map(json.loads, answers.splitlines())
    assert first == {
        "question": "One?",
        "images": [],
        "error": "not asked: its image could not be read; /image gives one, or /reset",
    }
    assert second["answer"] == conversation.model.chat("Two?", max_tokens=4)


def test_save_writes_what_the_model_can_be_asked_again(
    conversation: Conversation, photo: Path
) -> None:
    file = photo.with_name("chat.json")
    talk(conversation, f"/image {photo}", "What is it?", f"/save {file}")
    user, assistant = saved = json.loads(file.read_text(encoding="utf-8"))
    assert user["content"][0] == {"type": "image", "image": str(photo)}
    assert assistant == conversation.messages[1]
    again = conversation.model.prompt([*saved, {"role": "user", "content": "And?"}])
    assert again.images == [str(photo)]
    assert sorted(path.name for path in photo.parent.iterdir()) == ["chat.json", "photo.png"]


def test_reset_forgets_the_conversation_and_pending_images(
    conversation: Conversation, photo: Path
) -> None:
    _, notices = talk(conversation, f"/image {photo}", "What?", f"/image {photo}", "/reset")
    assert "forgot the conversation and all images" in notices
    assert (conversation.messages, conversation.pending) == ([], [])


def test_help_names_every_command(conversation: Conversation) -> None:
    _, notices = talk(conversation, "/help")
    for command in ("/image PATH", "/reset", "/save FILE", "/exit, /quit", "Ctrl-C", "Ctrl-D"):
        assert command in notices


@pytest.mark.parametrize("command", ["/exit", "/quit"])
def test_the_conversation_can_be_left(conversation: Conversation, command: str) -> None:
    answers, notices = talk(conversation, "What?", command, "And now?")
    assert answers.count("\n") == 1
    assert notices == ""
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]


@pytest.mark.parametrize("quote", ["'", '"'])
def test_a_dropped_file_comes_in_quotes(
    conversation: Conversation, photo: Path, quote: str
) -> None:
    spaced = photo.rename(photo.with_name("a b.png"))
    _, notices = talk(conversation, f"/image {quote}{spaced}{quote}")
    assert notices == "40 x 30, for the next question\n"
    assert conversation.pending[0]["source"] == str(spaced)


class InterruptedOnce(io.StringIO):
    """Somebody presses Ctrl-C when two pieces have been written."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        if self.writes == 3:
            raise KeyboardInterrupt
        return super().write(text)


def test_ctrl_c_stops_an_answer_and_not_the_loop(conversation: Conversation) -> None:
    answers, notices = InterruptedOnce(), io.StringIO()
    prompt_loop(conversation, io.StringIO("One?\nTwo?\n"), answers, Console(file=notices))
    assert notices.getvalue() == "stopped\n"
    said = conversation.messages[1]["content"]
    assert conversation.model.chat("One?", max_tokens=4).startswith(said)
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"] * 2


def test_json_is_one_object_for_each_answer(conversation: Conversation, photo: Path) -> None:
    answers, _ = talk(conversation, f"/image {photo}", "What?", "And?", as_json=True)
    first, second = map(json.loads, answers.splitlines())
    assert first.keys() == {"question", "images", "answer", "seconds"}
    assert (first["question"], first["images"]) == ("What?", [str(photo)])
    assert (second["question"], second["images"]) == ("And?", [])


@given(st.text(st.characters()))
def test_no_control_character_reaches_the_terminal(text: str) -> None:
    shown = clean(text)
    assert all(
        character in "\n\t" or character.isprintable() or ord(character) > 0x9F
        for character in shown
    )
    shown.encode()


def test_notices_are_not_markup() -> None:
    file = io.StringIO()
    notice(Console(file=file, width=10), "[red]a long line of :cat: text[/]\x1b[31m")
    assert file.getvalue() == "[red]a long line of :cat: text[/][31m\n"


def test_an_image_is_read_when_it_is_named(conversation: Conversation, photo: Path) -> None:
    conversation.pending = [image_part(str(photo))]
    photo.unlink()
    answers, notices = talk(conversation, "What is it?")
    assert answers
    assert notices == ""


def test_command_answers_one_question(
    checkpoint: Path, photo: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", str(checkpoint), "--device", "cpu", "--max-tokens", "3"]
    assert main(["chat", str(photo), *options, "What is it?"]) == 0
    streamed, errors = capfd.readouterr()
    assert errors == ""
    assert "\x1b" not in streamed
    assert main(["chat", *options, "--json", str(photo), "What is it?"]) == 0
    assert clean(json.loads(capfd.readouterr().out)["answer"]) == streamed.removesuffix("\n")
    assert main(["chat", *options, "What is it?"]) == 0
    told = "no image is shown: vlm chat IMAGE QUESTION asks about one\n"
    assert capfd.readouterr().err == told


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", lines)


def test_command_takes_images_where_users_put_them(
    checkpoint: Path,
    photo: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["--model", str(checkpoint), "--device", "cpu", "--max-tokens", "3", "--json"]
    url = "data:image/png;base64," + base64.b64encode(photo.read_bytes()).decode()
    shown = {}
    for name, words in {
        "first": [str(photo), "What?"],
        "last": ["What?", str(photo)],
        "option": ["--image", str(photo), "What?"],
        "url": [url, "What?"],
        "pipe": ["-", "What?"],
    }.items():
        piped(monkeypatch, photo.read_bytes())
        assert main(["chat", *words, *options]) == 0
        shown[name] = json.loads(capfd.readouterr().out)
    assert len({record["answer"] for record in shown.values()}) == 1
    assert shown["first"]["images"] == shown["last"]["images"] == shown["option"]["images"]
    assert len(shown["url"]["images"][0]) == 60
    assert shown["pipe"]["images"] == ["-"]


def test_command_reads_questions_from_a_pipe(
    checkpoint: Path,
    photo: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    piped(monkeypatch, b"What?\n/reset\n\xff\xfe And?\n")
    options = ["--model", str(checkpoint), "--device", "cpu", "--max_tokens", "3", "--json"]
    assert main(["chat", str(photo), "One?", "-i", *options]) == 0
    out, errors = capfd.readouterr()
    assert [json.loads(line)["images"] for line in out.splitlines()] == [[str(photo)], [], []]
    assert errors == "forgot the conversation and all images\n"
    piped(monkeypatch, b"/image nosuch.jpg\nWhat?\n")
    assert main(["chat", *options]) == 1
    out, errors = capfd.readouterr()
    assert json.loads(out).keys() == {"question", "images", "error"}
    assert errors.splitlines()[-1] == "vlm: 2 of the lines failed, see above"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.jpg"], "cannot read 'missing.jpg': No such file or directory"),
        (["missing.jpg", ""], "the question is empty"),
        (["my photo.jpg"], "cannot read 'my photo.jpg': No such file or directory; a question"),
        (["What is in it?", "photos"], "cannot read 'photos': No such file or directory"),
        ([".", "What?"], "cannot read '.': it is a folder: name an image in it"),
        (["-", "-i", "What?"], "`-` is an image from a pipe: pipe one in, and give the question"),
        (["-"], "`-` is an image from a pipe: pipe one in, and give the question"),
        (["What?", "--device", "toaster"], "cannot use device 'toaster'"),
        (["What?", "--model", "./missing"], "'./missing'"),
    ],
)
def test_command_tells_an_error_in_one_line(
    words: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", *words]) == 1
    out, errors = capfd.readouterr()
    assert out == ""
    assert errors.startswith("vlm: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_an_image_that_is_not_there_is_an_object_in_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "missing.jpg", "What?", "--json"]) == 1
    out, errors = capfd.readouterr()
    error = "cannot read 'missing.jpg': No such file or directory"
    assert json.loads(out) == {"question": "What?", "images": ["missing.jpg"], "error": error}
    assert errors == f"vlm: {error}\n"
