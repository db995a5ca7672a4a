"""The `vlm` command. Options come from typed functions and dataclasses through jsonargparse; the
module behind a command, `train` and `eval` among them, is imported only when it is asked for."""

import sys
from dataclasses import is_dataclass
from importlib import import_module
from typing import Any

from jsonargparse import ActionConfigFile, ArgumentParser

from vlm.errors import VLMError

COMMANDS = {
    "chat": ("vlm.chat:chat", "ask questions about images"),
    "train": ("train.align:align", "train the projector on captioned photos (stage 1)"),
    "names": ("train.pseudo_labels:main", "write captions that name the thing in each photo"),
    "eval captions": ("eval.captions:main", "caption photos: BLEU, ROUGE-L, CIDEr"),
    "eval objects": ("eval.objects:main", "name the main thing of everyday photos"),
}
"""Each command with the function that it runs, as module:function, and what it does."""

USAGE = "\n".join(
    [
        "usage: vlm COMMAND [options]",
        "",
        *(f"  vlm {name:<15}{what}" for name, (_, what) in COMMANDS.items()),
        "",
        "vlm COMMAND --help says what a command takes.",
    ]
)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0; 1 for an error of the family `VLMError`, told in one line; 2 for a command that does not
        exist; 130 after Ctrl-C. Wrong options end the program with status 2.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    words = 2 if arguments[0] == "eval" else 1
    command, options = " ".join(arguments[:words]), arguments[words:]
    if command not in COMMANDS:
        print(f"vlm: no command {command!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    try:
        run(command, options)
    except VLMError as error:
        print(f"vlm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run(command: str, options: list[str]) -> None:
    """Runs one command: its function's parameters are its options. A function of one dataclass is
    configured by YAML files, named first, and by options that override them.

    Raises:
        VLMError: what the command raises.
    """
    module, name = COMMANDS[command][0].split(":")
    function = getattr(import_module(module), name)
    config_class = next(iter(function.__annotations__.values()))
    parser = ArgumentParser(prog=f"vlm {command}", description=function.__doc__.split("\n")[0])
    if not is_dataclass(config_class):
        parser.add_function_arguments(function, as_positional=True)
        values = parser.instantiate_classes(parser.parse_args(options))
        function(**vars(values))
        return
    parser.usage = f"vlm {command} [CONFIG.yaml ...] [options]"
    parser.add_argument("--config", action=ActionConfigFile, help="a YAML file with options")
    parser.add_class_arguments(config_class)
    files = 0
    while files < len(options) and not options[files].startswith("-"):
        files += 1
    named = [word for file in options[:files] for word in ("--config", file)]
    values: dict[str, Any] = vars(
        parser.instantiate_classes(parser.parse_args(named + options[files:]))
    )
    values.pop("config")
    function(config_class(**values))
