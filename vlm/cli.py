"""The `vlm` command: the options of a command are the parameters of a function, or the fields of a
dataclass. What a command needs is imported when its options are known to be right."""

import logging
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pkgutil import resolve_name

from vlm.errors import UsageError, VLMError
from vlm.garbage import uncollected
from vlm.options import Target, parse
from vlm.process_group import leaving_group

COMMANDS = {
    "chat": ("vlm.chat:ChatConfig", "ask questions about images", "vlm.chat:chat"),
    "attend": (
        "vlm.attend:AttendConfig",
        "draw what the model looks at in a photo",
        "vlm.attend:attend",
    ),
    "classify": (
        "vlm.classify:ClassifyConfig",
        "tell which of some labels photos have",
        "vlm.classify:classify",
    ),
    "search": (
        "vlm.search:SearchConfig",
        "find the photos of a folder that a text describes",
        "vlm.search:search",
    ),
    "train": (
        "train.config:TrainConfig",
        "train: projector on captions, or the whole on instructions",
        "train.run:train",
    ),
    "data": (
        "train.config:PreviewConfig",
        "look at training data as the model will see it",
        "train.preview:show",
    ),
    "average": ("train.average:average_checkpoints", "average the trained tensors of checkpoints"),
    "eval": (
        "eval.config:EvalConfig",
        "ask the questions of benchmarks, and score the answers",
        "eval.run:evaluate",
    ),
    "score vqa": ("eval.score:vqa", "score answers as VQA v2 or TextVQA does"),
    "score gqa": ("eval.score:gqa", "score answers as GQA does"),
    "score pope": ("eval.score:pope", "score answers as POPE does"),
    "score scienceqa": ("eval.score:scienceqa", "score answers as ScienceQA does"),
    "score choice": ("eval.score:choice", "score choices of options, circular or not"),
    "score exact": ("eval.score:exact", "score answers by exact match"),
    "score retrieval": (
        "eval.dual_encoder:retrieval",
        "score a CLIP: texts found for photos, photos for texts",
    ),
    "score zero-shot": (
        "eval.dual_encoder:zero_shot",
        "score a CLIP: class names of what is on photos",
    ),
    "score captions": ("eval.score:captions", "score captions: BLEU, ROUGE-L, CIDEr"),
}
"""What has the options, what the command is, and the function that takes them as a dataclass."""


def dispatch(arguments: list[str]) -> None:
    """Tells what was asked for: the help, the version, or a command, which is run."""
    words = 2 if arguments[:1] == ["score"] else 1
    command, options = " ".join(arguments[:words]), arguments[words:]
    if command in COMMANDS:
        # It warns of an optional kernel that is not installed, and of every 8-bit layer that casts.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        target, _, *function = COMMANDS[command]
        with uncollected():
            options_of = resolve_name(target)
        run(f"vlm {command}", options_of, options, *function)
    elif command == "--version":
        print(f"vlm {metadata.version('vlm')}")
    elif command.removeprefix("score").strip() in ("", "-h", "--help"):
        group = "score " if command.startswith("score") else ""
        usage = f"usage: vlm {group}COMMAND [options]; vlm {group}COMMAND --help"
        print(usage + "\n" if group else f"{usage}; vlm --version\n")
        for name, (_, what, *_) in COMMANDS.items():
            if name.startswith(group):
                print(f"  vlm {name:<17}{what}")
    else:
        raise UsageError(f"no command {command!r}; see vlm --help")


def run(prog: str, target: Target, arguments: list[str], function: str | None = None) -> None:
    """Calls a function as the arguments say, see `vlm.options.parse`: the target itself, or if that
    is a dataclass the one of a name, imported only when its settings are known to be right."""
    given = parse(prog, target, arguments)
    if given is not None and function is None:
        target(**vars(given))
    elif given is not None:
        given.check()
        with uncollected():
            command = resolve_name(function)
        command(given)


def main(arguments: list[str] | None = None, command: Callable[..., None] = dispatch) -> int:
    """Calls a command, and tells its errors in one line each. Gives the exit status: 0; 1 for a
    `VLMError`, or when nobody reads the output any more; 2 for wrong options; 130 after Ctrl-C."""
    try:
        try:
            with leaving_group():
                command(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()
    except VLMError as error:
        print(f"vlm: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except BrokenPipeError:
        # Else the interpreter, flushing at its end, would meet the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
