"""Settings: YAML, JSON or options -> typed dataclasses, through pydantic. What does not fit is a
ConfigError in plain words, with what would be right."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from vlm.errors import ConfigError

WORDS = {"words": True}
"""Metadata of the one setting that the words of a command line are, which need no name."""

LARGEST = 2**20
"""Bytes of a YAML file of settings."""

DATA = (".jsonl", ".csv", ".tsv", ".parquet", ".tar", ".gz")
NO_SETTINGS = "it holds no settings; if it is data, write `data: FILE` in a YAML file"

TYPES = {
    **{"bool": "true or false", "int": "a whole number", "float": "a number"},
    **{"string": "text", "path": "a path", "list": "a list"},
}
"""What a value must be, by the beginning of pydantic's name of the error; it says the others."""


def read(config: type, values: dict[Any, Any] | str | bytes) -> Any:
    """A dataclass from the values of YAML or of options, all text, or strictly from JSON."""
    adapter = TypeAdapter(with_config(ConfigDict(extra="forbid"))(config))
    try:
        if isinstance(values, dict):
            return adapter.validate_python(spelled_out(config, values))
        return adapter.validate_json(values, strict=True)
    except ValidationError as error:
        raise ConfigError(told(config, error.errors(include_url=False))) from error


def spelled_out(hint: Any, value: Any) -> Any:
    """A value as its type has it, where one stands for a list of one, a text for an object that
    needs nothing but it, and `.inf`, as YAML writes it, for a number."""
    inner, many = parts_of(hint)
    if many and not isinstance(value, list | tuple | None):
        value = [value]
    if isinstance(value, list):
        return [spelled_out(inner, each) for each in value]
    if inner and isinstance(value, str):
        needed = [each.name for each in fields(inner) if is_needed(each)]
        value = {needed[0]: value} if len(needed) == 1 else value
    if inner and isinstance(value, dict):
        hints = {each.name: each.type for each in fields(inner)}
        return {key: spelled_out(hints.get(key), each) for key, each in value.items()}
    if isinstance(value, str) and float in members(hint):
        return re.sub(r"(?i)\.(?=inf|nan)", "", value)
    return value


def default_of(setting: Field) -> Any:
    factory = setting.default_factory
    return setting.default if factory is MISSING else factory()


def is_needed(setting: Field) -> bool:
    return default_of(setting) is MISSING


def members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def parts_of(hint: Any) -> tuple[type | None, bool]:
    """The dataclass that a setting is, or has a list of; and whether it is a list, of which one
    value may stand alone, as a text may not that has its own meaning."""
    either = members(hint)
    inners = (inner for one in either for inner in (one, *get_args(one)) if is_dataclass(inner))
    return next(inners, None), list in map(get_origin, either) and str not in either


def walk(config: type, above: str = "") -> Iterator[tuple[str, Field, type]]:
    """All settings by dotted name, with the dataclass they are of; `data[].path` is that of each
    entry of a list."""
    for each in fields(config):
        yield above + each.name, each, config
        inner, many = parts_of(each.type)
        if inner:
            yield from walk(inner, f"{above}{each.name}{'[]' if many else ''}.")


def told(config: type, errors: list[dict[str, Any]]) -> str:
    """pydantic's first error in our words."""
    first = min(errors, key=lambda each: each["type"] == "missing")
    if not first["loc"]:
        return first["msg"]
    *above, last = first["loc"]
    name, inner = place(config, above)
    if first["type"] == "missing":
        return f"{name} lacks `{last}`" if name else f"`{last}` is missing"
    if first["type"] in ("unexpected_keyword_argument", "invalid_key"):
        return unknown(last, inner, config, name)
    name, _ = place(config, first["loc"])
    # The others of the same name are the other members of a union.
    must = [in_words(config, e) for e in errors if place(config, e["loc"])[0] == name]
    value = first["input"]
    shown = {dict: "settings", list: "a list", NoneType: "null"}.get(type(value))
    return f"{name} must be {' or '.join(must)}, not {shown or f'{value!r:.100}'}"


def in_words(config: type, error: dict[str, Any]) -> str:
    """What a value must be."""
    if error["type"] == "dataclass_type":
        return f"settings such as `{{{fields(place(config, error['loc'])[1])[0].name}: ...}}`"
    kind = error["type"].partition("_")[0]
    return TYPES.get(kind) or error["msg"].removeprefix("Input should be ").replace("valid ", "")


def place(config: type, loc: Iterable[str | int]) -> tuple[str, type | None]:
    """The dotted name of where an error is, and the dataclass that is wanted there."""
    name, inner = "", config
    for step in loc:
        hints = {each.name: each.type for each in fields(inner)} if inner else {}
        if isinstance(step, int):
            name += f"[{step}]"
        elif step in hints:  # Else it names a member of a union.
            name, inner = f"{name}.{step}", parts_of(hints[step])[0]
    return name.removeprefix("."), inner


def unknown(key: str, inner: type, whole: type, name: str = "") -> str:
    """That an object of a name has no such setting, and which one may be meant."""
    known = [each.name for each in fields(inner)]
    paths = [path for path, *_ in walk(whole) if path.split(".")[-1] == key]
    said = f"{name} has no setting `{key}`" if name else f"no setting `{key}`"
    if name and key in [each.name for each in fields(whole)]:
        return f"{said}: it does not belong inside `{name}`"
    if meant := get_close_matches(key, known, 1, 0.75) or paths[:3]:
        return f"{said}: did you mean {' or '.join(f'`{one}`' for one in meant)}?"
    return f"{said}: there are {', '.join(known)}" if len(known) < 20 else said


def read_file(file: str) -> dict[Any, Any]:
    """A YAML file of settings, for `read`."""
    if os.path.isdir(file) or file.endswith(DATA):
        raise ConfigError(NO_SETTINGS)
    try:
        with open(file, "rb") as opened:
            return read_yaml(opened.read(LARGEST + 1))
    except OSError as error:
        raise ConfigError(f"{error.strerror}") from error


def read_yaml(content: str | bytes) -> dict[Any, Any]:
    """A YAML mapping, for `read`."""
    try:
        # A long list, which data may be, would take YAML minutes.
        nodes = (e for e in yaml.parse(content, TextLoader) if isinstance(e, yaml.NodeEvent))
        if len(content) > LARGEST or not isinstance(next(nodes, None), yaml.MappingStartEvent):
            raise ConfigError(NO_SETTINGS)
        return yaml.load(content, TextLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        if mark and error.context_mark and mark.line >= len(content.splitlines()):
            # At the end of the file, what began somewhere is missed.
            mark = error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        # "reason" is what a byte that is no UTF-8 has instead.
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ConfigError(f"{where}not YAML: {reason}") from error


class TextLoader(yaml.SafeLoader):
    """Reads every value but null as text, for the type of a setting says what it is: YAML 1.1 alone
    would take `off` for false, and `1e-3` for a word. Tags say nothing."""

    yaml_constructors = {  # noqa: RUF012
        "tag:yaml.org,2002:null": yaml.SafeLoader.construct_yaml_null
    }

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ConfigError(f"line {key.start_mark.line + 1}: `{key.value}` is there twice")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)
