"""Options: a command line, and the YAML files that it names -> the arguments of a function,
checked; and the help that lists them."""

import argparse
import re
from collections.abc import Callable
from dataclasses import Field, field, fields, is_dataclass, make_dataclass
from difflib import get_close_matches
from functools import cache, partial
from inspect import Parameter, signature
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NoReturn, get_args, get_origin

import yaml

from vlm.errors import ConfigError, UsageError
from vlm.settings import is_needed, parts_of, read, read_file, read_yaml, resolved, walk

SHORT = {"interactive": ["-i"]}

Target = Callable[..., Any]
"""A function, whose parameters are the options, those that are dataclasses by their fields; or one
such dataclass alone, which a function takes as `config`."""


def parse(prog: str, target: Target, arguments: list[str]) -> dict[str, Any] | None:
    """What to call a function with, from options and words in any order; words are what it needs,
    or for a dataclass YAML files. None if help or the settings were asked for, and printed. A
    UsageError for whatever is wrong."""
    settings = settings_of(target)
    try:
        options = split(parser_of(prog, target, settings), settings, arguments)
        if options.pop("help", False):
            return parser_of(prog, target, settings, docs=True).print_help()
        printing = options.pop("print_config", False)
        files = options.pop("files", []) + options.pop("config", [])
        values: dict[str, Any] = {}
        for file in (*files, None):
            try:
                values = merged(values, read_file(file) if file else options)
                whole = read(settings, values)
                missing = [
                    e.name for e in fields(settings) if is_needed(e) and e.name not in values
                ]
                called = {} if missing else arguments_of(target, vars(whole))
            except ConfigError as error:
                raise ConfigError(f"{file}: {error}" if file else str(error)) from error
        if printing:
            return print(
                yaml.safe_dump(resolved(whole), sort_keys=False, allow_unicode=True), end=""
            )
        if missing:
            raise ConfigError(f"`{missing[0]}` is missing")
        return called
    except ConfigError as error:
        more = "" if str(error).endswith("?") else f"; see {prog} --help"
        raise UsageError(f"{error}{more}") from error


def parameters_of(target: Target) -> list[Parameter]:
    if is_dataclass(target):
        return [Parameter("config", Parameter.KEYWORD_ONLY, annotation=target)]
    return list(signature(target).parameters.values())


def is_word(parameter: Parameter) -> bool:
    return (parameter.default, parameter.kind) == (Parameter.empty, Parameter.POSITIONAL_OR_KEYWORD)


def settings_of(target: Target) -> type:
    """A dataclass of all settings, in which what is needed may be left out: it is then None."""
    bases = [e.annotation for e in parameters_of(target) if is_dataclass(e.annotation)]
    own = [(e.name, e.type, field(default=None)) for b in bases for e in fields(b) if is_needed(e)]
    for each in parameters_of(target):
        if each.annotation not in bases:
            no_words = is_word(each) and parts_of(each.annotation)[1]
            default = None if each.default is each.empty else each.default
            made = field(default_factory=list) if no_words else field(default=default)
            own.append((each.name, each.annotation, made))
    # The whole is checked when it is made.
    namespace = {"__doc__": target.__doc__, "__post_init__": lambda self: None}
    return make_dataclass("Settings", own, bases=tuple(bases), namespace=namespace)


def arguments_of(target: Target, values: dict[str, Any]) -> dict[str, Any]:
    return {
        each.name: each.annotation(**{e.name: values[e.name] for e in fields(each.annotation)})
        if is_dataclass(each.annotation)
        else values[each.name]
        for each in parameters_of(target)
    }


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Settings with others over them."""
    both = below.keys() & above.keys()
    deep = {n for n in both if isinstance(below[n], dict) and isinstance(above[n], dict)}
    return {**below, **above, **{name: merged(below[name], above[name]) for name in deep}}


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


class Put(argparse.Action):
    """Puts an option where a YAML file would have it."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option: Any = None) -> None:
        values = vars(namespace)
        *above, last = self.dest.split(".")
        for key in above:
            if not isinstance(values.get(key), dict):
                values[key] = {}
            values = values[key]
        value = self.const or value  # A flag has no value.
        more = isinstance(value, list) and isinstance(values.get(last), list)
        values[last] = values[last] + value if more else value


def from_text(hint: Any, text: str) -> Any:
    """The value of an option; null, lists and objects are written as in YAML."""
    inner, many = parts_of(hint)
    value = None if text == "null" else text
    if text[:1] + text[-1:] in ("[]", "{}") and (inner or "list[" in str(hint)):
        value = read_yaml(f"it: {text}")["it"]
    return [value] if many and isinstance(value, str | dict) else value


def split(parser: Parser, settings: type, arguments: list[str]) -> dict[str, Any]:
    """The options, and the words, as a YAML file would have them."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    options = [
        re.sub("^--[^=]+", lambda o: "--" + o[0][2:].replace("-", "_"), e) for e in arguments[:cut]
    ]
    # Behind `--`, which argparse forgets before Python 3.13, no word is an option.
    words = [f"\0{word}" for word in arguments[cut + 1 :]]
    given, wrong = parser.parse_known_intermixed_args(options + words)
    for option in (each.partition("=")[0] for each in wrong if each.startswith("-")):
        known = [f"--{name}" for name, *_ in walk(settings) if "[]" not in name]
        near = [one for one in known if one.endswith(f".{option[2:]}")][:3]
        meant = " or ".join(near or get_close_matches(option, known, 1, 0.75))
        raise ConfigError(f"no option {option}" + (f": did you mean {meant}?" if meant else ""))
    if wrong:
        raise ConfigError(f"unexpected word '{wrong[0]}'")
    return vars(given)


def parser_of(prog: str, target: Target, settings: type, docs: bool = False) -> Parser:
    """What takes the options and words of all settings; with what they do, if that is printed."""
    words = [each.name for each in parameters_of(target) if is_word(each)]
    parser = Parser(
        usage=" ".join([prog, *words, *["[CONFIG.yaml ...]"] * is_dataclass(target), "[options]"]),
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
    if is_dataclass(target):
        add("files", nargs="*", metavar="CONFIG.yaml", help=about)
    entries = parser.add_argument_group("in each entry of a list")
    for name, each, owner in walk(settings):
        about = help_of(owner, each) if docs else ""
        if "[]" in name:
            if docs:  # It is no option.
                entries.add_argument(name, metavar=f"{name}: {metavar(each.type)}", help=about)
        elif name in words:
            many = "*" if parts_of(each.type)[1] else "?"
            add(name, nargs=many, type=lambda word: word.removeprefix("\0"), help=about)
        elif each.type is bool and "." not in name:
            flag = partial(add, dest=name, action=Put, nargs=0)
            flag(f"--{name}", *SHORT.get(name, []), const="true", help=f"{about} (or --no_{name})")
            flag(f"--no_{name}", const="false", help=argparse.SUPPRESS)
        else:
            kind = {"type": partial(from_text, each.type), "metavar": metavar(each.type)}
            add(f"--{name}", action=Put, help=about, **kind)
    return parser


def metavar(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "{" + ",".join(get_args(hint)) + "}"
    if kinds := [metavar(one) for one in get_args(hint) if one is not NoneType]:
        return "|".join(dict.fromkeys(kinds))
    return "{...}" if is_dataclass(hint) else hint.__name__.upper()


def help_of(owner: type, setting: Field) -> str:
    """What docstrings say of a setting, and its default."""
    about, default = docs_of(owner).get(setting.name, ""), setting.default
    if is_needed(setting):
        about += " (needed)"
    elif default is not False and isinstance(default, str | int | float | Path):
        about += f" (default: {default})"
    return about.replace("%", "%%")


@cache
def docs_of(owner: type) -> dict[str, str]:
    # Imported here because it takes a while, and only help needs it.
    from docstring_parser import parse as parse_docstring

    entries = [
        e for base in owner.__mro__[::-1] for e in parse_docstring(base.__doc__ or "").params
    ]
    return {each.arg_name: " ".join((each.description or "").split()) for each in entries}
