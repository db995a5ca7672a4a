"""The `vlm` command: jsonargparse makes the options of typed functions and dataclasses. The module
behind a command, `train` and `eval` among them, is imported only when it is asked for."""

import logging
import os
import sys
from argparse import Action, ArgumentError
from collections.abc import Callable
from dataclasses import is_dataclass
from importlib import import_module, metadata
from inspect import signature
from itertools import islice
from typing import Any

import yaml
from jsonargparse import ActionYesNo, ArgumentParser, Namespace, auto_cli

from vlm.errors import UsageError, VLMError

COMMANDS = {
    "chat": ("vlm.chat:chat", "ask questions about images"),
    "train": ("train.run:train", "train: projector on captions, or the whole on instructions"),
    "data": ("train.preview:show", "look at training data as the model will see it"),
    "average": ("train.average:average_checkpoints", "average the trained tensors of checkpoints"),
    "eval": ("eval.run:evaluate", "ask the questions of benchmarks, and score the answers"),
    "score vqa": ("eval.score:vqa", "score answers as VQA v2 or TextVQA does"),
    "score gqa": ("eval.score:gqa", "score answers as GQA does"),
    "score pope": ("eval.score:pope", "score answers as POPE does"),
    "score scienceqa": ("eval.score:scienceqa", "score answers as ScienceQA does"),
    "score choice": ("eval.score:choice", "score choices of options, circular or not"),
    "score exact": ("eval.score:exact", "score answers by exact match"),
    "score captions": ("eval.score:captions", "score captions: BLEU, ROUGE-L, CIDEr"),
}


def dispatch(arguments: list[str]) -> None:
    """Tells what was asked for: the help, the version, or a command, which is run."""
    words = 2 if arguments[:1] == ["score"] else 1
    command, options = " ".join(arguments[:words]), arguments[words:]
    if command in COMMANDS:
        # It warns of an optional kernel that is not installed, and of every 8-bit layer that casts.
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        module, name = COMMANDS[command][0].split(":")
        run(f"vlm {command}", getattr(import_module(module), name), options)
    elif command == "--version":
        print(f"vlm {metadata.version('vlm')}")
    elif command.removeprefix("score").strip() in ("", "-h", "--help"):
        group = "score " if command.startswith("score") else ""
        usage = f"usage: vlm {group}COMMAND [options]; vlm {group}COMMAND --help"
        print(usage + "\n" if group else f"{usage}; vlm --version\n")
        for name, (_, what) in COMMANDS.items():
            if name.startswith(group):
                print(f"  vlm {name:<17}{what}")
    else:
        raise UsageError(f"no command {command!r}; see vlm --help")


def run(prog: str, function: Callable[..., object], arguments: list[str]) -> None:
    """Calls a function: its parameters are the options, or the fields of the dataclass it takes."""
    config = next(iter(signature(function).parameters.values())).annotation
    flat = is_dataclass(config)
    settings = {"parser_class": Parser, "prog": prog, "exit_on_error": False}
    settings |= {"as_positional": not flat, "return_instance": flat}
    settings |= {"usage": f"{prog} [CONFIG.yaml ...] [options]"} if flat else {}
    try:
        given = auto_cli(config if flat else function, arguments, **settings)
    except ArgumentError as error:
        raise UsageError(f"{' '.join(str(error).split())}; see {prog} --help") from error
    if flat:
        function(given)


def main(arguments: list[str] | None = None, command: Callable[..., None] = dispatch) -> int:
    """Calls a command, and tells its errors in one line each. Gives the exit status: 0; 1 for a
    `VLMError`, or when nobody reads the output any more; 2 for wrong options; 130 after Ctrl-C."""
    try:
        try:
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


class Parser(ArgumentParser):
    """Takes options and words in any order, and dashes for underscores. Words are YAML files of
    options where a command has none of its own."""

    def add_argument(self, *names: str, **settings: Any) -> Action:
        """Makes a `bool` a flag, and a required `list[str]` many words, or an option for each."""
        hint = settings.get("type", getattr(settings.get("action"), "_typehint", None))
        if hint is bool and "." not in names[0]:
            names += ("-i",) if names[0] == "--interactive" else ()
            del settings["type"]
            settings["action"] = ActionYesNo()
        elif hint == list[str] and not names[0].startswith("-"):
            settings |= {"action": "store", "type": str, "nargs": "*", "default": []}
        elif hint == list[str] and settings.get("required"):
            settings |= {"action": "append", "type": str}
        return super().add_argument(*names, **settings)

    def add_class_arguments(self, *parts: Any, **settings: Any) -> list[str]:
        """Takes values as they are, and never reads a file that one names."""
        return super().add_class_arguments(*parts, **settings | {"sub_configs": False})

    def parse_args(self, arguments: list[str], **settings: Any) -> Namespace:
        """Puts options before words: argparse does not mix them."""
        options, words = [], []
        rest = iter(arguments)
        for argument in rest:
            name, equals, value = argument.partition("=")
            if argument == "--":
                words += rest
            elif not argument.startswith("-"):
                words.append(argument)
            else:
                name = name[:2] + name[2:].replace("-", "_")
                options.append(name + equals + value)
                action = self._option_string_actions.get(name)
                # `--print_config` has 1, but its value comes only behind "=".
                if not equals and (action is None or action.nargs not in (0, 1)):
                    options += islice(rest, 1)
        for word in reversed(words) if self.usage else ():
            if os.path.isdir(word) or word.endswith(".jsonl"):
                self.error(f"{word}: is data: write `data: [{{path: {word}}}]` in a YAML file")
            options = ["--config", word, *options]
        more = ["--", *words] if words and not self.usage else []
        return super().parse_args(options + more, **settings)

    def parse_path(self, path: str, **settings: Any) -> Namespace:
        """Reads the options of a YAML file; what is wrong with them is told with its name."""
        try:
            config = super().parse_path(path, **settings)
            # Else a key that is no option would be told at the end, when the file is forgotten.
            self.validate(config, skip_required=True)
        except (TypeError, KeyError, ValueError, yaml.YAMLError, ArgumentError) as error:
            raise ArgumentError(None, f"{path}: {error}") from error
        return config

    def parse_string(self, content: str, *place: Any, **settings: Any) -> Namespace:
        """Reads options, if the first node is a mapping: a long list would take YAML hours."""
        nodes = (e for e in yaml.parse(content, yaml.SafeLoader) if isinstance(e, yaml.NodeEvent))
        if not isinstance(next(nodes, None), yaml.MappingStartEvent):
            raise TypeError("holds no options, such as `data: [{path: ...}]`")
        return super().parse_string(content, *place, **settings)
