"""The `vlm` command. Options come from typed functions and dataclasses through jsonargparse; the
module behind a command, `train` and `eval` among them, is imported only when it is asked for."""

import inspect
import logging
import os
import sys
from argparse import ArgumentError
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from importlib import import_module, metadata
from itertools import islice
from pathlib import Path
from typing import Any

import docstring_parser
import yaml
from jsonargparse import ActionConfigFile, ActionYesNo, ArgumentParser, Namespace

from vlm.errors import UsageError, VLMError

COMMANDS = {
    "chat": ("vlm.chat:chat", "ask questions about images"),
    "train": ("train.run:train", "train: projector on captions, or the whole on instructions"),
    "data": ("train.preview:show", "look at training data as the model will see it"),
    "average": ("train.average:main", "average the trained tensors of checkpoints"),
    "eval": ("eval.run:evaluate", "ask the questions of benchmarks, and score the answers"),
    "score vqa": ("eval.score:vqa", "score answers as VQA v2 or TextVQA does"),
    "score gqa": ("eval.score:gqa", "score answers as GQA does"),
    "score pope": ("eval.score:pope", "score answers as POPE does"),
    "score scienceqa": ("eval.score:scienceqa", "score answers as ScienceQA does"),
    "score choice": ("eval.score:choice", "score choices of options, circular or not"),
    "score exact": ("eval.score:exact", "score answers by exact match"),
    "score captions": ("eval.score:captions", "score captions: BLEU, ROUGE-L, CIDEr"),
}
"""Each command with the function that it runs, as module:function, and what it does."""

USAGE = "\n".join(
    [
        "usage: vlm COMMAND [options]",
        "",
        *(f"  vlm {name:<17}{what}" for name, (_, what) in COMMANDS.items()),
        "",
        "vlm COMMAND --help says what a command takes; vlm --version, which version this is.",
    ]
)

SHORT = {"interactive": ["-i"]}
"""Flags that have a one-letter form."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
        0; 1 for an error of the family `VLMError`, told in one line, or when nobody reads the
        output any more; 2 for a command that does not exist; 130 after Ctrl-C. A training run that
        Ctrl-C stops says how to go on with it, which is such an error: 1.

    Raises:
        SystemExit: with status 2 for wrong options, told in one line too; with 0 after a command's
            help.
    """
    return in_one_line_each(lambda: dispatch(sys.argv[1:] if arguments is None else arguments))


def run_module(function: Callable[..., None]) -> int:
    """Runs the function of a module that is a command of its own, as `python -m MODULE`."""
    module = Path(sys.argv[0])
    prog = f"python -m train.embedded.{module.stem}"
    return in_one_line_each(lambda: run_function(prog, function, sys.argv[1:]) or 0)


def in_one_line_each(command: Callable[[], int]) -> int:
    """Runs a command; its errors as `main` tells them."""
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except UsageError as error:
        print(f"vlm: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    except VLMError as error:
        print(f"vlm: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Else the interpreter, flushing at its end, would meet the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def dispatch(arguments: list[str]) -> int:
    """Tells what was asked for: the help, the version, or a command, which is run.

    Raises:
        UsageError: options that the command does not take.
        VLMError: what the command raises.
    """
    words = 2 if arguments[:1] == ["score"] else 1
    command, options = " ".join(arguments[:words]), arguments[words:]
    if command in ("", "-h", "--help", "score"):
        print(USAGE)
        return 0
    if command == "--version":
        print(f"vlm {metadata.version('vlm')}")
        return 0
    if command not in COMMANDS:
        print(f"vlm: no command {command!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    # It warns of an optional kernel that is not installed, and of every 8-bit layer that casts.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    run(command, options)
    return 0


def run(command: str, arguments: list[str]) -> None:
    """Runs one command of `COMMANDS`, see `run_function`."""
    module, name = COMMANDS[command][0].split(":")
    run_function(f"vlm {command}", getattr(import_module(module), name), arguments)


def run_function(prog: str, function: Callable[..., None], arguments: list[str]) -> None:
    """Runs one command: its function's parameters are its options. A function of one dataclass is
    configured by YAML files and by options that override them.

    Raises:
        UsageError: options that the command does not take.
        VLMError: what the command raises.
    """
    config_class = next(iter(function.__annotations__.values()))
    description = function.__doc__.split("\n")[0]
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    if not is_dataclass(config_class):
        options, words = options_and_words(arguments, add_parameters(parser, function))
        function(**vars(parse(parser, [*options, "--", *words] if words else options)))
        return
    parser.usage = f"{prog} [CONFIG.yaml ...] [options]"
    parser.add_argument("--config", action=ConfigFile, help="a YAML file with options")
    flags = add_fields(parser, config_class)
    config_name, *others = inspect.signature(function).parameters
    parser.add_function_arguments(function, skip={config_name})
    options, files = options_and_words(arguments, {"--help", "-h"} | flags)
    named = [word for file in files for word in ("--config", file)]
    values: dict[str, Any] = vars(parser.instantiate_classes(parse(parser, named + options)))
    values.pop("config")
    rest = {name: values.pop(name) for name in others}
    function(config_class(**values), **rest)


def parse(parser: ArgumentParser, arguments: list[str]) -> Namespace:
    """The values that a command line gives.

    Raises:
        UsageError: options that the parser does not take, or that lack a value.
    """
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise UsageError(f"{in_one_line(error)}; see {parser.prog} --help") from error


class ConfigFile(ActionConfigFile):
    """A YAML file of options: what is wrong with it is told with its name."""

    def __call__(
        self, parser: ArgumentParser, cfg: Namespace, values: str, option_string: str | None = None
    ) -> None:
        """Reads the file into the options.

        Raises:
            UsageError: no file, no YAML mapping, or a key or a value that is not an option's.
        """
        require_mapping(Path(values).expanduser())
        try:
            super().__call__(parser, cfg, values, option_string)
            # Else a key that is no option would be told at the end, when the file is forgotten.
            parser.validate(cfg, skip_required=True)
        except (TypeError, KeyError, ArgumentError) as error:
            raise UsageError(f"{values}: {in_one_line(error)}; see {parser.prog} --help") from error


def require_mapping(file: Path) -> None:
    """Checks that a file can be one of options, by how it begins.

    Raises:
        UsageError: it cannot be read, or holds something else than a YAML mapping.
    """
    # What is read from a pipe is gone.
    if file.is_fifo():
        return
    if file.is_dir() or file.suffix == ".jsonl":
        raise UsageError(
            f"{file}: is data, not a config: write `data: [{{path: {file}}}]` in a YAML file"
        )
    try:
        with file.open("rb") as stream:
            # The first node and no more: a long list, which is data, would take YAML hours.
            events = yaml.parse(stream, Loader=yaml.SafeLoader)
            before = (yaml.StreamStartEvent, yaml.DocumentStartEvent)
            first = next(event for event in events if not isinstance(event, before))
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{file}: is not YAML: {in_one_line(error)}") from error
    if not isinstance(first, yaml.MappingStartEvent):
        found = "is empty" if isinstance(first, yaml.StreamEndEvent) else "is no YAML mapping"
        raise UsageError(f"{file}: {found}: a config has options, as in `data: [{{path: ...}}]`")


def in_one_line(error: Exception) -> str:
    """What an error of a library says."""
    return " ".join(str(error).split())


def add_fields(parser: ArgumentParser, config_class: type) -> set[str]:
    """Gives the parser the fields of a dataclass. A true-or-false one is a flag: `--resume`, and
    `--no_resume` where a file says otherwise.

    Returns:
        The options that take no value.
    """
    flags = [entry.name for entry in fields(config_class) if entry.type is bool]
    parser.add_class_arguments(config_class, skip=set(flags))
    documented = docstring_parser.parse(config_class.__doc__).params
    described = {entry.arg_name: entry.description for entry in documented}
    defaults = {entry.name: entry.default for entry in fields(config_class)}
    for name in flags:
        action = ActionYesNo(no_prefix="no_")
        parser.add_argument(
            f"--{name}", action=action, default=defaults[name], help=described[name]
        )
    return {f"--{prefix}{name}" for name in flags for prefix in ("", "no_")}


def add_parameters(parser: ArgumentParser, function: Callable[..., None]) -> set[str]:
    """Gives the parser a function's parameters: those without a default as words (a list of strings
    takes any number), `False` as a flag, the others as options with a value. One that can only be
    named and has no default is an option that must be given, a list of strings once for each.

    Returns:
        The options that take no value.
    """
    parameters = inspect.signature(function).parameters.values()
    flags = [p.name for p in parameters if p.default is False]
    named = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    words = [p for p in parameters if p.default is p.empty and p not in named]
    lists = [p.name for p in words if p.annotation == list[str]]
    skip = {*flags, *lists, *(p.name for p in named)}
    parser.add_function_arguments(function, as_positional=True, skip=skip)
    described = {p.arg_name: p.description for p in docstring_parser.parse(function.__doc__).params}
    for name in lists:
        parser.add_argument(
            name,
            nargs="*",
            type=str,
            default=[],
            help=described[name],
            metavar=name.upper(),
        )
    for parameter in named:
        several = parameter.annotation == list[str]
        parser.add_argument(
            f"--{parameter.name}",
            type=str if several else parameter.annotation,
            required=True,
            action="append" if several else "store",
            help=described[parameter.name],
        )
    forms = {name: [f"--{name}", *SHORT.get(name, [])] for name in flags}
    for name in flags:
        parser.add_argument(*forms[name], action="store_true", help=described[name])
    return {"--help", "-h"}.union(*forms.values())


def options_and_words(arguments: list[str], flags: set[str]) -> tuple[list[str], list[str]]:
    """Tells options, each with its value behind it, from words, which argparse wants in one run.
    A dash inside an option's name is as good as an underscore; `--` makes all that follows words.

    Args:
        arguments: of a command, in any order.
        flags: the options that take no value.
    """
    options: list[str] = []
    words: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            words += rest
        elif argument.startswith("-"):
            name, equals, value = argument.partition("=")
            if name.startswith("--"):
                name = "--" + name[2:].replace("-", "_")
            options.append(name + equals + value)
            if not equals and name not in flags:
                options += islice(rest, 1)
        else:
            words.append(argument)
    return options, words
