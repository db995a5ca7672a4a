"""`vlm chat`: questions about images and their answers, in a terminal, in a pipe, or as JSON."""

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from json import dumps
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich.console import Console
from rich.text import Text

from vlm.config import GenerationConfig
from vlm.errors import ImageError, PromptError, VLMError
from vlm.files import write_file
from vlm.images import load_image

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


def chat(
    words: list[str],
    model: str = "embedded",
    load_in: Literal["4bit", "8bit"] | None = None,
    prompt: Literal["auto", "chatml", "vicuna", "template"] | None = None,
    device: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    json: bool = False,
    interactive: bool = False,
    generation: GenerationConfig = GenerationConfig(),  # noqa: B008
) -> None:
    """Ask about images: vlm chat [IMAGE ...] [QUESTION]; without a question, a prompt.

    Args:
        words: images (files, or data: or http(s) URLs) and, last, a question. The last word is the
            question if it contains a space or ends in '?', '.' or '!', unless it is a URL or there
            is such a file. Without a question there is a prompt, whose first question the images go
            with; from a pipe, each line is a question.
        model: `embedded`, or folder or hub id of a checkpoint or of a LLaVA model.
        load_in: the language model's weights in 4 or 8 bits, through bitsandbytes.
        prompt: conversation format, where it should not be the model's own.
        device: such as `cpu` or `cuda:1`; null is CUDA where there is one, else the CPU.
        dtype: of the weights; null is bfloat16 on CUDA, float32 on the CPU.
        json: print one JSON object for each answer: question, images, answer, seconds.
        interactive: after the answer to the question, go on with the prompt.
        generation: how answers are decoded.
    """
    images, question = images_and_question(words)
    pending = [image_part(image) for image in images]
    notices = Console(stderr=True)
    with notices.status(Text(f"Loading {model}")):
        # Imported here because they take seconds, and a missing photo or --help should not.
        import torch
        from transformers.utils import logging

        from vlm.loading import load

        logging.set_verbosity_error()
        loaded = load(model, device, getattr(torch, dtype) if dtype else None, load_in, prompt)
    conversation = Conversation(loaded, generation, pending=pending)
    # A character that the terminal's encoding lacks must not end the program.
    sys.stdout.reconfigure(errors="replace")
    if question is not None:
        answer(conversation, question, sys.stdout, json)
    if question is None or interactive:
        sys.stdin.reconfigure(errors="replace")
        if sys.stdin.isatty():
            notice(notices, f"{model} on {loaded.device}, /help for commands")
        prompt_loop(conversation, sys.stdin, sys.stdout, notices, json)


def images_and_question(words: list[str]) -> tuple[list[str], str | None]:
    """Tells the images from the question, see `chat`."""
    if not words:
        return [], None
    *images, last = words
    if not last.strip():
        raise PromptError("the question is empty: leave it out for a prompt")
    if last.lower().startswith(("data:", "http://", "https://")) or os.path.exists(last):
        return words, None
    if " " in last or last.endswith(("?", ".", "!")):
        return images, last
    if "." not in last and "/" not in last:
        raise ImageError(
            f"cannot read {last!r}: No such file or directory; "
            "a question of one word ends in '?', '.' or '!'"
        )
    return words, None


@dataclass
class Conversation:
    """What was said so far, and the images that go with the next question, both as parts that
    `image_part` makes."""

    model: "VisionLanguageModel"
    generation: GenerationConfig
    messages: list[dict[str, Any]] = field(default_factory=list)
    pending: list[dict[str, Any]] = field(default_factory=list)

    def ask(self, question: str, say: Callable[[str], None]) -> str:
        """Answers a question, piece by piece to `say`. If it is interrupted, what was said until
        then is remembered; if nothing was, the question is forgotten and its images are still
        pending."""
        user = {"role": "user", "content": [*self.pending, {"type": "text", "text": question}]}
        pieces: list[str] = []
        try:
            for piece in self.model.stream([*self.messages, user], **vars(self.generation)):
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
    return {"type": "image", "image": load_image(source), "source": source}


def prompt_loop(
    conversation: Conversation, stdin: TextIO, stdout: TextIO, notices: Console, json: bool = False
) -> None:
    """Reads questions and commands, one a line, until `/exit` or the end of the input; no bad one
    ends it. Answers, and nothing else, go to `stdout`."""
    while True:
        try:
            line = clean(read_line(stdin, stdout)).strip()
        except EOFError:
            if stdin.isatty():
                notice(notices, "")  # Ctrl-D leaves the cursor behind the prompt.
            return
        except KeyboardInterrupt:
            notice(notices, "\nCtrl-D or /exit leaves")
            continue
        if line in ("/exit", "/quit"):
            return
        try:
            if line.startswith("/"):
                obey(line, conversation, notices)
            elif line:
                answer(conversation, line, stdout, json)
        except KeyboardInterrupt:
            notice(notices, "stopped")
        except VLMError as error:
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
    if command in ("/image", "/save") and not path:
        raise VLMError(f"{command} needs a path, see /help")
    if command == "/help":
        notice(notices, HELP)
    elif command == "/reset":
        conversation.messages, conversation.pending = [], []
        notice(notices, "forgot the conversation and all images")
    elif command == "/image":
        part = image_part(path)
        conversation.pending.append(part)
        notice(notices, f"{part['image'].width} x {part['image'].height}, for the next question")
    elif command == "/save":
        conversation.save(Path(path))
        notice(notices, f"saved to {path}")
    else:
        raise VLMError(f"no command {command}, see /help")


def answer(conversation: Conversation, question: str, stdout: TextIO, json: bool) -> None:
    """Asks a question and writes the answer: as it comes and a newline, or one JSON object."""

    def stream(piece: str) -> None:
        stdout.write(clean(piece))
        stdout.flush()

    question = clean(question)
    images = [part["source"] for part in conversation.pending]
    began = perf_counter()
    try:
        said = conversation.ask(question, say=(lambda piece: None) if json else stream)
    except KeyboardInterrupt:
        if not json:
            stdout.write("\n")
        raise
    if json:
        seconds = round(perf_counter() - began, 3)
        record = {"question": question, "images": images, "answer": said, "seconds": seconds}
        stdout.write(dumps(record))
    stdout.write("\n")
    stdout.flush()


def clean(text: str) -> str:
    return CONTROLS.sub("", text)


def notice(notices: Console, text: str, style: str = "dim") -> None:
    """Prints what is not an answer; nothing in it is read as rich's markup."""
    notices.print(Text(clean(text), style=style), soft_wrap=True)
