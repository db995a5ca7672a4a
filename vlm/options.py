"""Options: a command line, and the YAML files that it names -> the settings of a command, checked;
and the help that lists them."""

import argparse
import re
from collections.abc import Callable
from dataclasses import Field, field, fields, is_dataclass, make_dataclass
from functools import cache, partial
from inspect import signature
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml
from pydantic_core import to_jsonable_python

from vlm.errors import ConfigError, UsageError
from vlm.settings import (
    WORDS,
    default_of,
    is_needed,
    members,
    parts_of,
    read,
    read_file,
    read_yaml,
    walk,
)

SHORT = {"interactive": ["-i"], "output": ["-o"]}
"""Options that have a letter too."""

Target = Callable[..., Any]
"""A function, whose parameters are the settings, or a dataclass, whose fields are."""


def parse(prog: str, target: Target, arguments: list[str]) -> Any:
    """The settings of a target, a dataclass, from options and words in any order; words are its
    `WORDS`, else for a dataclass YAML files. None if help or the settings were asked for, and
    printed. A UsageError for whatever is wrong."""
    settings = target if is_dataclass(target) else settings_of(target)
    unfinished, values = optional(settings), {}
    try:
        options = split(parser_of(prog, target, settings), settings, arguments)
        if options.pop("help", False):
            return parser_of(prog, target, settings, docs=True).print_help()
        printing = options.pop("print_config", False)
        for file in (*options.pop("files", []), *options.pop("config", []), None):
            try:
                values = merged(values, read_file(file) if file else options)
                whole = read(unfinished, values)
            except ConfigError as error:
                raise ConfigError(f"{file}: {error}" if file else str(error)) from error
        if not printing:
            return read(settings, values)
        text = yaml.safe_dump(to_jsonable_python(whole), sort_keys=False, allow_unicode=True)
        return print(text, end="")
    except ConfigError as error:
        more = "" if str(error).endswith("?") else f"; see {prog} --help"
        raise UsageError(f"{error}{more}") from error


def settings_of(function: Callable[..., Any]) -> type:
    """A dataclass of a function's parameters. Those that are given without their names are its
    `WORDS`."""
    settings = []
    for each in signature(function).parameters.values():
        needed = each.default is each.empty
        is_word = needed and each.kind is each.POSITIONAL_OR_KEYWORD
        default = {} if needed else {"default": each.default}
        setting = field(metadata=WORDS if is_word else None, **default)
        settings.append((each.name, each.annotation, setting))
    namespace = {"__doc__": function.__doc__}
    return make_dataclass("Settings", settings, kw_only=True, namespace=namespace)


def optional(settings: type) -> type:
    """The settings, of which what is needed may be left out: it is None then."""
    needed = [each for each in fields(settings) if is_needed(each)]
    own = [(each.name, each.type, field(default=None)) for each in needed]
    return make_dataclass("Unfinished", own, bases=(settings,), kw_only=True)


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Settings with others over them."""
    both = below.keys() & above.keys()
    deep = {n for n in both if isinstance(below[n], dict) and isinstance(above[n], dict)}
    return {**below, **above, **{name: merged(below[name], above[name]) for name in deep}}


def nested(path: str, value: Any) -> dict[str, Any]:
    """A value under a dotted name, as a YAML file would have it."""
    for key in reversed(path.split(".")):
        value = {key: value}
    return value


def split(parser: argparse.ArgumentParser, settings: type, arguments: list[str]) -> dict[str, Any]:
    """The options, and the words, as a YAML file would have them."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options = [
        re.sub("(?<=^--)[^=]+", lambda o: o[0].replace("-", "_"), e) for e in arguments[:cut]
    ]
    # Behind `--`, which argparse forgets before Python 3.13, no word is an option.
    words = [f"\0{word}" for word in arguments[cut + 1 :]]
    given, wrong = parser.parse_known_intermixed_args(options + words)
    for option in filter(re.compile("-+.").match, wrong):
        name = option.lstrip("-").partition("=")[0]
        if any(path.replace("[]", "") == name for path, *_ in walk(settings)):
            raise ConfigError(f"no option --{name}")  # But a word, or of the entries of a list.
        # There is no such setting; a file that had it would hear the same.
        read(settings, nested(name, None))
    if wrong:
        raise ConfigError(f"unexpected word '{wrong[0]}'")
    values: dict[str, Any] = {}
    for path, value in vars(given).items():
        values = merged(values, nested(path, None if value == [None] else value))
    return values


def from_text(hint: Any, text: str) -> Any:
    """The value of an option; null, lists and objects are written as in YAML."""
    inner, many = parts_of(hint)
    value = None if text == "null" else text
    is_list = list in map(get_origin, members(hint))
    # Of a list of texts, "{}" is one.
    if {"[]": bool(inner) or is_list, "{}": bool(inner)}.get(text[:1] + text[-1:]):
        value = read_yaml(f"it: {text}")["it"]
    return value if isinstance(value, list) or not many else [value]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parser_of(prog: str, target: Target, settings: type, docs: bool = False) -> Parser:
    """What takes the options and words of all settings; with what they do, if that is printed."""
    words = [each.name for each in fields(settings) if each.metadata == WORDS]
    of_files = is_dataclass(target) and not words
    parser = Parser(
        usage=" ".join([prog, *words, *["[CONFIG.yaml ...]"] * of_files, "[options]"]),
        description=(settings.__doc__ or "").partition("\n\n")[0],
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    add = parser.add_argument
    add("-h", "--help", action="store_true", help="show this list")
    add("--print_config", action="store_true", help="show all settings as YAML")
    about = "YAML file of settings; options come after all files"
    add("--config", action="append", metavar="FILE", help=about)
    if of_files:
        add("files", nargs="*", metavar="CONFIG.yaml", help=about)
    entries, listed = parser.add_argument_group("in each entry of a list"), []
    for name, each, owner in walk(settings):
        about = help_of(owner, each) if docs else ""
        takes, many = metavar(each.type), parts_of(each.type)[1]
        if "[]" in name:
            if docs and each not in listed:  # It is no option.
                listed.append(each)
                entries.add_argument(name, metavar=f"{name}: {takes}", help=about)
        elif name in words:
            kind = {"nargs": "*" if many else "?", "type": lambda word: word.removeprefix("\0")}
            add(name, help=about, **kind)
        elif each.type is bool and "." not in name:
            flag = partial(add, dest=name, action="store_const")
            flag(f"--{name}", *SHORT.get(name, []), const="true", help=f"{about} (or --no_{name})")
            flag(f"--no_{name}", const="false", help=argparse.SUPPRESS)
        else:
            kind = {"action": "extend" if many else "store", "type": partial(from_text, each.type)}
            add(f"--{name}", *SHORT.get(name, []), metavar=takes, help=about, **kind)
    return parser


def metavar(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "{" + ",".join(get_args(hint)) + "}"
    if kinds := [metavar(one) for one in get_args(hint) if one is not NoneType]:
        return "|".join(dict.fromkeys(kinds))
    return "{...}" if is_dataclass(hint) else hint.__name__.upper()


def help_of(owner: type, setting: Field) -> str:
    """What docstrings say of a setting, and its default."""
    about, default = docs_of(owner).get(setting.name, "").replace("%", "%%"), default_of(setting)
    if is_needed(setting):
        return f"{about} (needed)"
    simple = isinstance(default, str | int | float | Path) and default is not False
    return f"{about} (default: {default})" if simple else about


@cache
def docs_of(owner: type) -> dict[str, str]:
    # Imported here because it takes a while, and only help needs it.
    from docstring_parser import parse as parse_docstring

    docs = [parse_docstring(base.__doc__ or "") for base in reversed(owner.__mro__)]
    return {e.arg_name: " ".join((e.description or "").split()) for one in docs for e in one.params}
