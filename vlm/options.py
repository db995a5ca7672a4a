"""Options: a command line, and the YAML files that it names -> the arguments of a function,
checked; and the help that lists them."""

import argparse
import re
from collections.abc import Callable
from dataclasses import Field, field, fields, is_dataclass, make_dataclass
from functools import cache, partial
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml

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
    resolved,
    walk,
)

SHORT = {"interactive": ["-i"]}
"""Options that have a letter too."""

Target = Callable[..., Any]
"""A function, whose parameters are the options, a dataclass that it needs by its fields; or such a
dataclass alone, which a function takes as `config`."""


def parse(prog: str, target: Target, arguments: list[str]) -> dict[str, Any] | None:
    """What to call a function with, from options and words in any order; words are what it needs,
    or for a dataclass its `WORDS`, else YAML files. None if help or the settings were asked for,
    and printed. A UsageError for whatever is wrong."""
    settings = settings_of(target)
    needed = [each.name for each in fields(settings) if is_needed(each)]
    values: dict[str, Any] = {}
    try:
        options = split(parser_of(prog, target, settings), settings, arguments)
        if options.pop("help", False):
            return parser_of(prog, target, settings, docs=True).print_help()
        printing = options.pop("print_config", False)
        for file in (*options.pop("files", []), *options.pop("config", []), None):
            try:
                values = merged(values, read_file(file) if file else options)
                whole = read(settings, values)
                missing = [name for name in needed if name not in values]
                called = {} if missing else arguments_of(target, vars(whole))
            except ConfigError as error:
                raise ConfigError(f"{file}: {error}" if file else str(error)) from error
        if missing and not printing:
            raise ConfigError(f"`{missing[0]}` is missing")
        if not printing:
            return called
        text = yaml.safe_dump(resolved(whole), sort_keys=False, allow_unicode=True)
        return print(text, end="")
    except ConfigError as error:
        more = "" if str(error).endswith("?") else f"; see {prog} --help"
        raise UsageError(f"{error}{more}") from error


def parameters_of(target: Target) -> list[Parameter]:
    if is_dataclass(target):
        return [Parameter("config", Parameter.KEYWORD_ONLY, annotation=target)]
    return list(signature(target).parameters.values())


def is_word(parameter: Parameter) -> bool:
    """Whether it is given without its name."""
    return (parameter.default, parameter.kind) == (Parameter.empty, Parameter.POSITIONAL_OR_KEYWORD)


def is_flat(parameter: Parameter) -> bool:
    """Whether its fields are options by their own names."""
    return is_dataclass(parameter.annotation) and parameter.default is Parameter.empty


def settings_of(target: Target) -> type:
    """A dataclass of all settings, in which what is needed may be left out: it is then None, or no
    words."""
    bases = tuple(each.annotation for each in parameters_of(target) if is_flat(each))
    own = [(e.name, e.type, field(default=None)) for b in bases for e in fields(b) if is_needed(e)]
    for each in parameters_of(target):
        if not is_flat(each):
            default = None if each.default is each.empty else each.default
            default = [] if is_word(each) and parts_of(each.annotation)[1] else default
            own.append((each.name, each.annotation, field(default_factory=lambda it=default: it)))
    # The whole is checked when it is made.
    namespace = {"__doc__": target.__doc__, "__post_init__": lambda self: None}
    return make_dataclass("Settings", own, bases=bases, namespace=namespace)


def arguments_of(target: Target, values: dict[str, Any]) -> dict[str, Any]:
    return {
        each.name: each.annotation(**{e.name: values[e.name] for e in fields(each.annotation)})
        if is_flat(each)
        else values[each.name]
        for each in parameters_of(target)
    }


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
    if text[:1] + text[-1:] in ("[]", "{}") and (inner or list in map(get_origin, members(hint))):
        value = read_yaml(f"it: {text}")["it"]
    return value if isinstance(value, list) or not many else [value]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def parser_of(prog: str, target: Target, settings: type, docs: bool = False) -> Parser:
    """What takes the options and words of all settings; with what they do, if that is printed."""
    words = [each.name for each in parameters_of(target) if is_word(each)]
    words += [each.name for each in fields(settings) if each.metadata == WORDS]
    of_files = is_dataclass(target) and not words
    parser = Parser(
        usage=" ".join([prog, *words, *["[CONFIG.yaml ...]"] * of_files, "[options]"]),
        description=(target.__doc__ or "").partition("\n\n")[0],
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
            add(f"--{name}", metavar=takes, help=about, **kind)
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
