"""Settings: plain values of YAML, JSON or a command line -> typed dataclasses. What does not fit is
a ConfigError in plain words, with what would be right."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml

from vlm.errors import ConfigError

LARGEST = 2**20
"""Bytes of a YAML file of settings."""

SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
"""YAML 1.1's words for true and false."""
FROM_TEXT = {
    bool: lambda text: SWITCHES[text.lower()],
    float: lambda text: float(re.sub(r"\.(?=inf|nan)", "", text.lower())),
}
TYPES = {bool: "true or false", int: "a whole number", float: "a number", NoneType: "null"}
"""What a value must be, in words; all others are text."""


class Setting(NamedTuple):
    """A field of a dataclass, or a parameter of a function."""

    hint: Any
    default: Any = MISSING


def settings_of(config: type) -> dict[str, Setting]:
    """The settings of a dataclass by name."""
    return {
        field.name: Setting(
            field.type,
            field.default if field.default_factory is MISSING else field.default_factory(),
        )
        for field in fields(config)
    }


def variants(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type that a hint is."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def parts_of(hint: Any) -> tuple[type | None, bool]:
    """The dataclass that a setting is, or has a list of; and whether it is a list."""
    for one in variants(hint):
        inner = get_args(one)[0] if get_origin(one) is list else one
        if is_dataclass(inner):
            return inner, inner is not one
    return None, False


def walk(settings: dict[str, Setting], above: str = "") -> Iterator[tuple[str, Setting]]:
    """All settings by dotted name, those inside others behind them; `data[].path` is that of each
    entry of a list."""
    for name, setting in settings.items():
        yield above + name, setting
        inner, many = parts_of(setting.hint)
        if inner is not None:
            yield from walk(settings_of(inner), f"{above}{name}{'[]' if many else ''}.")


@dataclass(frozen=True)
class Reader:
    """Reads plain values as `settings`. From JSON (`strict`) each has its own type. From YAML or a
    command line all but null are text, one value stands for a list of one, and a text for an object
    that needs nothing but it."""

    settings: dict[str, Setting]
    strict: bool = False

    def read(self, values: dict[Any, Any]) -> dict[str, Any]:
        """The values by name, typed; what is left out is left out."""
        return self._fields(self.settings, values, "")

    def _fields(
        self, settings: dict[str, Setting], values: dict[Any, Any], name: str
    ) -> dict[str, Any]:
        read = {}
        for key, value in values.items():
            if key not in settings:
                raise ConfigError(self.unknown(key, settings, name))
            read[key] = self._value(settings[key].hint, value, f"{name}.{key}" if name else key)
        return read

    def _value(self, hint: Any, value: Any, name: str) -> Any:
        for one in variants(hint):
            if is_dataclass(one):
                settings = settings_of(one)
                needed = [key for key, setting in settings.items() if setting.default is MISSING]
                if isinstance(value, str) and not self.strict and len(needed) == 1:
                    value = {needed[0]: value}
                if isinstance(value, dict):
                    read = self._fields(settings, value, name)
                    if missing := [key for key in needed if key not in read]:
                        raise ConfigError(f"{name} lacks `{missing[0]}`")
                    return one(**read)
            elif get_origin(one) is list:
                if not self.strict and value is not None and not isinstance(value, list):
                    value = [value]
                if isinstance(value, list):
                    several = len(value) > 1
                    return [
                        self._value(get_args(one)[0], each, f"{name}[{n}]" if several else name)
                        for n, each in enumerate(value)
                    ]
            elif get_origin(one) is Literal:
                if value in get_args(one):
                    return value
            elif type(value) is one or (one is float and type(value) is int):
                return one(value) if value is not None else None
            elif isinstance(value, str) and not self.strict:
                with suppress(ValueError, KeyError, TypeError):
                    return FROM_TEXT.get(one, one)(value)
        raise ConfigError(f"{name} must be {in_words(hint, name)}, not {shown(value)}")

    def unknown(self, key: Any, settings: dict[str, Setting] | None = None, name: str = "") -> str:
        """That there is no such setting, in the object of a name, and which one may be meant."""
        settings = settings or self.settings
        told = f"{name} has no setting `{key}`" if name else f"no setting `{key}`"
        if near := get_close_matches(str(key), settings, 1, 0.75):
            return f"{told}: did you mean `{near[0]}`?"
        if name and key in self.settings:
            return f"{told}: it does not belong inside `{name.partition('.')[0]}`"
        paths = [path for path, _ in walk(self.settings) if path.endswith(f".{key}")]
        if paths:
            return f"{told}: did you mean {' or '.join(map(as_yaml, paths[:3]))}?"
        return f"{told}: there are {', '.join(settings)}" if len(settings) < 20 else told


def as_yaml(path: str, value: str = "...") -> str:
    """How a dotted name is written in YAML."""
    *above, last = path.split(".")
    text = f"{last}: {value}"
    for name in reversed(above):
        text = f"{name[:-2]}: [{{{text}}}]" if name.endswith("[]") else f"{name}: {{{text}}}"
    return f"`{text}`"


def in_words(hint: Any, name: str | None = None) -> str:
    """What a setting must be; with an example, if it has a name."""
    told = []
    for one in variants(hint):
        if is_dataclass(one) and name:
            first, (_, default) = next(iter(settings_of(one).items()))
            value = "..." if is_dataclass(default) or default is MISSING else json.dumps(default)
            place = re.sub(r"\[\d+\]", "[]", f"{name}.{first}")
            told.append(f"settings such as {as_yaml(place, value)}")
        elif is_dataclass(one):
            told.append("settings")
        elif get_origin(one) is list:
            told.append("a list")
        elif get_origin(one) is Literal:
            told.append(f"one of {', '.join(get_args(one))}")
        else:
            told.append(TYPES.get(one, "text"))
    return " or ".join(told)


def shown(value: Any) -> str:
    """A value in an error."""
    kinds = {dict: "settings", list: "a list", NoneType: "null"}
    return kinds.get(type(value)) or f"{value!r:.100}"


def read_yaml(file: Path) -> dict[Any, Any]:
    """What a YAML file of settings says, for a `Reader`."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"{error.strerror}") from error
    with refusing_yaml():
        # A long list, which data may be, would take YAML minutes.
        nodes = (e for e in yaml.parse(content, TextLoader) if isinstance(e, yaml.NodeEvent))
        if len(content) > LARGEST or not isinstance(next(nodes, None), yaml.MappingStartEvent):
            raise ConfigError(f"it holds no settings; if it is data: `data: {file}`")
        return parse_yaml(content)


def parse_yaml(content: str | bytes) -> Any:
    """A YAML value, for a `Reader`."""
    with refusing_yaml():
        return yaml.load(content, TextLoader)


class TextLoader(yaml.SafeLoader):
    """Reads every value but null as text, for the type of a setting says what it is: YAML 1.1 alone
    would take `off` for false, and `1e-3` for a word."""

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


@contextmanager
def refusing_yaml() -> Iterator[None]:
    """Within, what is not YAML is a ConfigError that names the line."""
    try:
        yield
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        # "reason" is what a byte that is no UTF-8 has instead.
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise ConfigError(f"{where}not YAML: {reason}") from error


def resolved(config: Any) -> Any:
    """Settings as JSON has them: dataclasses as objects, tuples as lists, paths as strings."""
    plain = json.dumps(config, default=lambda v: asdict(v) if is_dataclass(v) else str(v))
    return json.loads(plain)
