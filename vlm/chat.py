"""`vlm chat`: questions about images and their answers, in a terminal, in a pipe, or as JSON."""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from json import dumps
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich.console import Console
from rich.text import Text

from vlm.config import GenerationConfig
from vlm.data.photos import ENDINGS
from vlm.errors import ImageError, PromptError, VLMError
from vlm.files import write_file
from vlm.garbage import uncollected
from vlm.images import MAX_BYTES, load_image, reference
from vlm.settings import WORDS

if TYPE_CHECKING:
    from vlm.model import VisionLanguageModel

HELP = """\
/image PATH   an image for the next question: a file, or a data: or http(s) URL
/reset        forget the conversation and all images
/save FILE    write the conversation as JSON
/help         this list
/exit, /quit  leave, as Ctrl-D does
Ctrl-C stops an answer."""

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which a terminal would obey whoever wrote them, and halves of characters."""


@dataclass
class ChatConfig(GenerationConfig):
    """Ask about images: vlm chat [IMAGE ...] [QUESTION]; without a question, a prompt.

    Args:
        words: images (files, data: or http(s) URLs, `-` for one through a pipe) and a question,
            the last word or the first: it contains a space or ends in '?', '.' or '!', and is no
            URL and no file. Without a question there is a prompt, whose first question the images
            go with; from a pipe, each line is a question.
        image: an image more; may be given several times.
        model: `embedded`, or folder or hub id of a checkpoint, of a run or of a LLaVA model.
        load_in: the language model's weights in 4 or 8 bits, through bitsandbytes.
        prompt: conversation format, where it should not be the model's own.
        device: such as `cpu` or `cuda:1`; null is CUDA where there is one, else the CPU.
        dtype: of the weights; null is bfloat16 on CUDA and float32 on the CPU, where an adapted
            SmolLM2 stays in its 4-bit blocks.
        json: print one JSON object for each question: question, images, and answer and seconds or
            an error.
        interactive: after the answer to the question, go on with the prompt.
    """

    words: list[str] = field(default_factory=list, metadata=WORDS)
    image: list[str] | None = None
    model: str = "embedded"
    load_in: Literal["4bit", "8bit"] | None = None
    prompt: Literal["auto", "chatml", "vicuna", "template"] | None = None
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    json: bool = False
    interactive: bool = False

    def check(self) -> None:
        """A PromptError for an empty question, or an image from the pipe that questions come by."""
        images, question = self.asked()
        if "-" in images and (question is None or self.interactive or sys.stdin.isatty()):
            raise PromptError(
                "`-` is an image from a pipe: pipe one in, and give the question here"
            )

    def asked(self) -> tuple[list[str], str | None]:
        """All images, and the question if there is one."""
        images, question = images_and_question(self.words)
        return [*images, *(self.image or [])], question


def chat(config: ChatConfig) -> None:
    """Answers the question, or those that the prompt gets."""
    images, question = config.asked()
    # A character that the terminal's encoding lacks must not end the program.
    sys.stdout.reconfigure(errors="replace")
    try:
        pending = [image_part(image) for image in images]
    except ImageError as error:
        if config.json:
            tell(sys.stdout, question, images, error=str(error))
        raise
    notices = Console(stderr=True)
    with notices.status(Text(f"Loading {config.model}")), uncollected():
        # Imported here because they take seconds, and a missing photo or --help should not.
        import torch

        from vlm.loading import load

        dtype = getattr(torch, config.dtype) if config.dtype else None
        model = load(config.model, config.device, dtype, config.load_in, config.prompt)
    generation = {each.name: getattr(config, each.name) for each in fields(GenerationConfig)}
    conversation = Conversation(model, generation, pending=pending)
    if question is not None:
        if not images and not config.json:
            notice(notices, "no image is shown: vlm chat IMAGE QUESTION asks about one")
        answer(conversation, question, sys.stdout, config.json)
    if question is None or config.interactive:
        sys.stdin.reconfigure(errors="replace")
        if sys.stdin.isatty():
            notice(notices, f"{config.model} on {model.device}, /help for commands")
        failed = prompt_loop(conversation, sys.stdin, sys.stdout, notices, config.json)
        if failed and not sys.stdin.isatty():
            raise VLMError(f"{failed} of the lines failed, see above")


def images_and_question(words: list[str]) -> tuple[list[str], str | None]:
    """Tells the images from the question, see `ChatConfig`."""
    if not all(map(str.strip, words)):
        raise PromptError("the question is empty: leave it out for a prompt")
    if words and is_question(words[-1]):
        return words[:-1], words[-1]
    if words and is_question(words[0]):
        return words[1:], words[0]
    for word in words:
        if word != "-" and not names_image(word) and (" " in word or not re.search("[./]", word)):
            raise ImageError(
                f"cannot read {word!r}: No such file or directory; "
                "a question is the last word or the first, and ends in '?', '.' or '!'"
            )
    return words, None


def is_question(word: str) -> bool:
    said = " " in word or word.endswith(("?", ".", "!"))
    # A misspelt `my photo.jpg` must not be answered without the photo.
    return said and not names_image(word) and Path(word).suffix.lower() not in ENDINGS


def names_image(word: str) -> bool:
    return word.lower().startswith(("data:", "http://", "https://")) or os.path.exists(word)


@dataclass
class Conversation:
    """What was said so far, and the images that go with the next question, both as parts that
    `image_part` makes."""

    model: "VisionLanguageModel"
    generation: dict[str, Any]
    messages: list[dict[str, Any]] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)
    missing: bool = False
    """Whether an image of the next question could not be read."""

    def ask(self, question: str, say: Callable[[str], None]) -> str:
        """Answers a question, piece by piece to `say`. If it is interrupted, what was said until
        then is remembered; if nothing was, the question is forgotten and its images are still
        pending. Without an image that it should have, it is not asked: that is an ImageError."""
        if self.missing:
            raise ImageError("not asked: its image could not be read; /image gives one, or /reset")
        user = {"role": "user", "content": [*self.pending, {"type": "text", "text": question}]}
        pieces: list[str] = []
        try:
            for piece in self.model.stream([*self.messages, user], **self.generation):
                pieces.append(piece)
                say(piece)
        finally:
            if pieces:
                self.messages += [user, {"role": "assistant", "content": "".join(pieces)}]
                self.pending = []
        return "".join(pieces)

    def save(self, file: Path) -> None:
        """Writes the messages as JSON, each image as its source, into a folder that is there."""

        def without_pixels(part: dict[str, Any]) -> dict[str, Any]:
            return {"type": "image", "image": part["source"]} if "source" in part else part

        messages = [
            message
            if isinstance(message["content"], str)
            else {**message, "content": [without_pixels(part) for part in message["content"]]}
            for message in self.messages
        ]
        if not file.parent.is_dir():
            raise VLMError(f"cannot write {file}: there is no folder {file.parent}")
        write_file(file, dumps(messages, indent=2) + "\n")


def image_part(source: str) -> dict[str, Any]:
    """The part of a message that an image is, read now: the file may be gone by the next turn."""
    image = load_image(sys.stdin.buffer.read(MAX_BYTES + 1) if source == "-" else source)
    return {"type": "image", "image": image, "source": source}


def prompt_loop(
    conversation: Conversation, stdin: TextIO, stdout: TextIO, notices: Console, json: bool = False
) -> int:
    """Reads questions and commands, one a line, until `/exit` or the end of the input; no bad one
    ends it. Answers, and nothing else, go to `stdout`. Returns how many lines failed."""
    failed = 0
    while True:
        try:
            line = clean(read_line(stdin, stdout)).strip()
        except EOFError:
            if stdin.isatty():
                notice(notices, "")  # Ctrl-D leaves the cursor behind the prompt.
            return failed
        except KeyboardInterrupt:
            notice(notices, "\nCtrl-D or /exit leaves")
            continue
        if line in ("/exit", "/quit"):
            return failed
        try:
            if line.startswith("/"):
                obey(line, conversation, notices)
            elif line:
                answer(conversation, line, stdout, json)
        except KeyboardInterrupt:
            notice(notices, "stopped")
        except VLMError as error:
            failed += 1
            notice(notices, str(error), "red")


def read_line(stdin: TextIO, stdout: TextIO) -> str:
    """The next line, or an EOFError; a terminal gets a prompt and line editing."""
    if stdin.isatty() and stdout.isatty():
        import readline  # noqa: F401  (its import gives input() line editing and history)

        return input("> ")
    line = stdin.readline()
    if not line:
        raise EOFError
    return line


def obey(line: str, conversation: Conversation, notices: Console) -> None:
    command, _, rest = line.partition(" ")
    path = rest.strip()
    # Terminals quote the path of a file that is dropped on them.
    if path[:1] in ("'", '"') and path[0] == path[-1]:
        path = path[1:-1]
    path = os.path.expanduser(path)
    if command == "/image":
        conversation.missing = True
    if command in ("/image", "/save") and not path:
        raise VLMError(f"{command} needs a path, see /help")
    if command == "/help":
        notice(notices, HELP)
    elif command == "/reset":
        conversation.messages, conversation.pending, conversation.missing = [], [], False
        notice(notices, "forgot the conversation and all images")
    elif command == "/image":
        part = image_part(path)
        conversation.missing = False
        conversation.pending.append(part)
        notice(notices, f"{part['image'].width} x {part['image'].height}, for the next question")
    elif command == "/save":
        conversation.save(Path(path))
        notice(notices, f"saved to {path}")
    else:
        raise VLMError(f"no command {command}, see /help")


def answer(conversation: Conversation, question: str, stdout: TextIO, json: bool) -> None:
    """Asks a question and writes the answer: as it comes and a newline, or one JSON object, which
    an error is too."""

    def stream(piece: str) -> None:
        stdout.write(clean(piece))
        stdout.flush()

    question = clean(question)
    images = [part["source"] for part in conversation.pending]
    began = perf_counter()
    try:
        said = conversation.ask(question, say=(lambda piece: None) if json else stream)
    except VLMError as error:
        if json:
            tell(stdout, question, images, error=str(error))
        raise
    except KeyboardInterrupt:
        if not json:
            stdout.write("\n")
        raise
    if json:
        seconds = round(perf_counter() - began, 3)
        tell(stdout, question, images, answer=said, seconds=seconds)
    else:
        stdout.write("\n")
        stdout.flush()


def tell(stdout: TextIO, question: str | None, images: list[str], **said: Any) -> None:
    """Writes what became of a question as a line of JSON."""
    record = {"question": question, "images": [reference(image) for image in images], **said}
    stdout.write(dumps(record) + "\n")
    stdout.flush()


def clean(text: str) -> str:
    return CONTROLS.sub("", text)


def notice(notices: Console, text: str, style: str = "dim") -> None:
    """Prints what is not an answer; nothing in it is read as rich's markup."""
    notices.print(Text(clean(text), style=style), soft_wrap=True)
