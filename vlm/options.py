"""Options: the words of a command line, and YAML files that they name -> the arguments of a
function, checked; and the help that lists them."""

import os
from collections.abc import Callable, Iterable
from dataclasses import MISSING, is_dataclass
from difflib import get_close_matches
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, get_origin

import yaml

from vlm.errors import ConfigError, UsageError
from vlm.settings import (
    Reader,
    Setting,
    in_words,
    parse_yaml,
    parts_of,
    read_yaml,
    resolved,
    settings_of,
    variants,
    walk,
)

SHORT = {"-h": "--help", "-i": "--interactive"}
OWN = {
    "help": Setting(bool, False),
    "config": Setting(list[str], None),
    "print_config": Setting(bool, False),
}
OWN_DOCS = {
    "help": "show this list",
    "config": "YAML file of settings; options come after all files",
    "print_config": "show all settings as YAML instead",
}
DATA = (".jsonl", ".csv", ".tsv", ".parquet", ".tar", ".gz")

Target = Callable[..., Any]
"""A function, whose parameters are the options, a dataclass that it needs by its fields; or such a
dataclass alone, which a function takes as `config`."""


def parse(prog: str, target: Target, arguments: Iterable[str]) -> dict[str, Any] | None:
    """What to call a function with, from options and words in any order; words are what it needs,
    or for a dataclass YAML files. None if help or the settings were asked for, and printed. A
    UsageError for whatever is wrong."""
    settings, places = settings_and_places(target)
    try:
        values, words = split(arguments, {**OWN, **dict(walk(settings))})
        if values.pop("help", False):
            print_help(prog, target, settings, places)
            return None
        files, printing = values.pop("config", []), values.pop("print_config", False)
        if is_dataclass(target):
            files, words = words + files, []
        return together(target, settings, files, values | placed(words, places), bool(printing))
    except ConfigError as error:
        more = "" if str(error).endswith("?") else f"; see {prog} --help"
        raise UsageError(f"{error}{more}") from error


def settings_and_places(target: Target) -> tuple[dict[str, Setting], dict[str, Setting]]:
    """All settings, and those that words are given for: the needed ones of a function."""
    if is_dataclass(target):
        return settings_of(target), {}
    settings, places = {}, {}
    for name, parameter in signature(target).parameters.items():
        needed = parameter.default is Parameter.empty
        if needed and is_dataclass(parameter.annotation):
            settings |= settings_of(parameter.annotation)
            continue
        settings[name] = Setting(parameter.annotation, MISSING if needed else parameter.default)
        if needed and parameter.kind is Parameter.POSITIONAL_OR_KEYWORD:
            places[name] = settings[name]
    return settings, places


def split(arguments: Iterable[str], known: dict[str, Setting]) -> tuple[dict[str, Any], list[str]]:
    """The values of options, as a YAML file would have them, and the words."""
    values: dict[str, Any] = {}
    words: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            words += rest
        elif argument == "-" or not argument.startswith("-"):
            words.append(argument)
        else:
            option, equals, value = SHORT.get(argument, argument).partition("=")
            name = option[2:].replace("-", "_")
            if not equals and name.startswith("no_") and is_flag(name[3:], known):
                name, value = name[3:], "false"
            elif option[:2] != "--" or name not in known:
                raise ConfigError(unknown(option, name, known))
            elif not equals:
                value = "true" if is_flag(name, known) else next(rest, None)
            if value is None:
                raise ConfigError(f"{option} needs a value")
            put(values, name, value, known[name].hint)
    return values, words


def is_flag(name: str, known: dict[str, Setting]) -> bool:
    return name in known and known[name].hint is bool and "." not in name


def unknown(option: str, name: str, known: dict[str, Setting]) -> str:
    above, dot, last = name.rpartition(".")
    inner = [one.removeprefix(above + dot) for one in known if one.startswith(above + dot)]
    near = [one for one in known if one.endswith(f".{name}")]
    near = near or [above + dot + one for one in get_close_matches(last, inner, 1, 0.75)]
    meant = [f"--{one}" for one in near if "[]" not in one][:3]
    return f"no option {option}" + (f": did you mean {' or '.join(meant)}?" if meant else "")


def put(values: dict[str, Any], name: str, text: str, hint: Any) -> None:
    """Puts an option's value under its dotted name; lists and objects may be written as in YAML."""
    *above, last = name.split(".")
    for key in above:
        if not isinstance(values.get(key), dict):
            values[key] = {}
        values = values[key]
    several = any(get_origin(one) is list for one in variants(hint))
    value: Any = None if text == "null" else text
    if text[:1] + text[-1:] in ("[]", "{}") and (several or parts_of(hint)[0]):
        value = parse_yaml(text)
    if several and value is not None:
        value = (values.get(last) or []) + (value if isinstance(value, list) else [value])
    values[last] = value


def placed(words: list[str], places: dict[str, Setting]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, setting in places.items():
        if get_origin(setting.hint) is list:
            values[name], words = words, []
        elif words:
            values[name], *words = words
    if words:
        raise ConfigError(f"unexpected word '{words[0]}'")
    return values


def together(
    target: Target,
    settings: dict[str, Setting],
    files: list[str],
    options: dict[str, Any],
    printing: bool,
) -> dict[str, Any] | None:
    """The arguments that files say, the later ones first, and options before all; an error names
    the file. If they are only printed, they need not be whole."""
    values: dict[str, Any] = {}
    read: dict[str, Any] = {}
    for file in (*files, None):
        try:
            values = merged(values, options if file is None else read_file(file))
            read = Reader(settings).read(values)
            lacking = [n for n, s in settings.items() if s.default is MISSING and n not in read]
            arguments = None if lacking else arguments_of(target, read)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}" if file else str(error)) from error
    if printing:
        shown = {name: read.get(name, setting.default) for name, setting in settings.items()}
        whole = {name: value for name, value in shown.items() if value is not MISSING}
        print(yaml.safe_dump(resolved(whole), sort_keys=False, allow_unicode=True), end="")
        return None
    if lacking:
        raise ConfigError(f"`{lacking[0]}` is missing")
    return arguments


def read_file(file: str) -> dict[str, Any]:
    if os.path.isdir(file) or file.endswith(DATA):
        raise ConfigError(f"it is data: write `data: {file}` in a YAML file")
    return read_yaml(Path(file))


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Settings with others over them."""
    both = {
        key: merged(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return {**below, **above, **both}


def arguments_of(target: Target, read: dict[str, Any]) -> dict[str, Any]:
    if is_dataclass(target):
        return {"config": target(**read)}
    arguments = dict(read)
    for name, parameter in signature(target).parameters.items():
        if is_dataclass(parameter.annotation) and name not in settings_and_places(target)[0]:
            taken = settings_of(parameter.annotation).keys() & read.keys()
            arguments[name] = parameter.annotation(**{key: arguments.pop(key) for key in taken})
    return arguments


def print_help(
    prog: str, target: Target, settings: dict[str, Setting], places: dict[str, Setting]
) -> None:
    """Prints what a command does, and every setting with what it takes and its default."""
    # Imported here because they take a while, and only help needs them.
    from docstring_parser import parse as parse_docstring
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, markup=False)
    words = [f"[{n} ...]" if get_origin(s.hint) is list else n for n, s in places.items()]
    usage = "[CONFIG.yaml ...]" if is_dataclass(target) else " ".join(words).upper()
    console.print(f"usage: {prog} {usage} [options]\n".replace("  ", " "))
    console.print(parse_docstring(target.__doc__ or "").short_description, end="\n\n")
    table = Table.grid("", "", padding=(0, 2))
    docs, listed = {**OWN_DOCS, **docs_of(target)}, set()
    for name, setting in {**dict(walk(settings)), **OWN}.items():
        inner, many = parts_of(setting.hint)
        above = name.partition("[]")[0]
        if "[]" in name and above in listed:
            continue
        if many and inner in listed:
            listed.add(name)  # The entries of this list were explained with another one.
        listed.add(inner)
        option = name if "[]" in name or name in places else f"--{name}"
        takes = f"or --no_{name}" if is_flag(name, settings) else in_words(setting.hint)
        if name not in places and setting.default is MISSING:
            takes += ", needed"
        elif type(setting.default) in (str, int, float, type(Path())):
            takes += f", default {setting.default}"
        table.add_row(Text(option, no_wrap=True), Text(f"{docs.get(name, '')} ({takes})"))
    console.print(table)


def docs_of(target: Target, above: str = "") -> dict[str, str]:
    """What docstrings say of settings, by dotted name."""
    from docstring_parser import parse as parse_docstring

    owners = [target, *getattr(target, "__mro__", ())]
    if not is_dataclass(target):
        owners += [p.annotation for p in signature(target).parameters.values()]
    docs: dict[str, str] = {}
    for owner in owners:
        for entry in parse_docstring(owner.__doc__ or "").params:
            docs.setdefault(above + entry.arg_name, " ".join((entry.description or "").split()))
    for name, setting in settings_and_places(target)[0].items():
        inner, many = parts_of(setting.hint)
        if inner is not None:
            docs |= docs_of(inner, f"{above}{name}{'[]' if many else ''}.")
    return docs
