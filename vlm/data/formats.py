"""Which format a source has: found by looking into it, never by its name."""

import json
import os
import tarfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from vlm.data.captions import TEXTS
from vlm.data.columns import CONVERSATION, keys_of
from vlm.data.photos import ENDINGS
from vlm.data.records import files_in, head
from vlm.data.source import DataSource, Format
from vlm.errors import DataError
from vlm.files import disk, json_lines, json_list, read_json

KEYS: dict[Format, Sequence[set[str]]] = {
    "conversations": CONVERSATION,
    "vqa": [{"questions"}],
    "coco": [{"images", "annotations"}],
    "instances": [{"images", "annotations", "categories"}],
}
"""Any of these sets of keys makes JSON one of a format; else it is captions or questions."""

METADATA = {"metadata.jsonl", "metadata.csv", "metadata.parquet"}
"""What ImageFolder has beside its photos."""

FILES = {".json", ".jsonl", ".gz", ".csv", ".tsv", ".parquet", ".tar", ".txt"}
"""Endings of a path, which no id on the hub has."""


def format_of(source: DataSource) -> Format:
    """The format that a source names, or else the one that is in it; a DataError, which says what
    was found, if that is none or more than one."""
    if source.format is not None:
        return source.format
    path = Path(source.path)
    with disk(f"cannot read {source.path}"):
        if path.is_dir():
            return _format_of_folder(path)
        if path.is_file():
            return _format_of_file(path, source)
    return _format_elsewhere(source)


def require_there(source: DataSource) -> None:
    """A DataError where a path is neither that of something nor a pattern, nor an id of the hub."""
    if source.format is None and not os.path.exists(source.path):
        _format_elsewhere(source)


def _format_elsewhere(source: DataSource) -> Format:
    path = Path(source.path)
    if any(mark in source.path for mark in "{*?["):
        return "shards"
    if source.path.count("/") == 1 and not path.is_absolute() and path.suffix not in FILES:
        return "dataset"
    raise DataError(f"no data at {source.path!r}: no such file or folder")


def _format_of_folder(folder: Path) -> Format:
    files = files_in(folder)
    names = {file.name for file in files if file.parent == folder}
    endings = {file.suffix.lower() for file in files}
    # img2dataset's table of a shard lies beside its tar file or its folder.
    tables = [
        file
        for file in files
        if file.suffix == ".parquet" and file.name not in METADATA
        if not (file.with_suffix(".tar").is_file() or file.with_suffix("").is_dir())
    ]
    holds: dict[Format, bool] = {
        "dataset": bool(tables) or not names.isdisjoint({"dataset_info.json", "dataset_dict.json"}),
        "shards": ".tar" in endings,
        "imagefolder": any(file.name in METADATA for file in files),
        "sidecar": not _stems(files, TEXTS).isdisjoint(_stems(files, ENDINGS)),
    }
    fits = [kind for kind, found in holds.items() if found]
    if len(fits) == 1:
        return fits[0]
    found = f"{folder} holds {', '.join(sorted(endings - {''})) or 'nothing'}"
    if fits:
        raise DataError(f"{found}: say how to read it, `format:` {' or '.join(fits)}")
    single = [file for file in files if file.suffix.lower() in FILES.difference(TEXTS)]
    raise DataError(
        f"{found}; expected photos with .txt or metadata.jsonl beside them, .tar shards, .parquet, "
        "or a data set that `datasets` saved; to read a file inside, give its own path"
        f"{f', such as {single[0]}' if single else ''}"
    )


def _stems(files: list[Path], endings: Collection[str]) -> set[Path]:
    return {file.with_suffix("") for file in files if file.suffix.lower() in endings}


def _format_of_file(file: Path, source: DataSource) -> Format:
    with file.open("rb") as opened:
        if opened.read(4) == b"PAR1":
            return "dataset"
    try:
        if tarfile.is_tarfile(file):
            return "shards"
    except EOFError as error:
        raise DataError(f"{file} is compressed, and cut off or damaged: get it whole") from error
    start = head(file)
    if not start:
        raise DataError(f"{file} is empty")
    if not start.startswith(("{", "[")):
        header = start.split("\n", 1)[0]
        if "\t" in header or "," in header:
            return "table"
        raise DataError(
            f"{file} is neither JSON, nor a table with commas or tabs, nor a tar file; "
            f"it begins with {header[:40]!r}"
        )
    first = _first_object(file, start)
    keys = first.keys()
    named = source.columns.text or source.columns.question
    fits = [kind for kind, sets in KEYS.items() if any(one <= keys for one in sets)]
    if fits == ["coco", "instances"]:
        # Captions may have categories, too.
        fits.remove("instances" if _captioned(first["annotations"]) else "coco")
    if len(fits) > 1:
        raise DataError(f"{file} may be {' or '.join(fits)}: say which in `format:`")
    if fits and not named:
        return fits[0]
    try:
        return "questions" if keys_of(str(file), source.columns, keys).question else "captions"
    except DataError as error:
        forms = "conversations, messages, VQA v2, COCO"
        raise DataError(f"{error}; other forms: {forms}") from error


def _captioned(annotations: Any) -> bool:
    first = annotations[0] if isinstance(annotations, list) and annotations else None
    return isinstance(first, dict) and "caption" in first


def _first_object(file: Path, start: str) -> dict[str, Any]:
    """The object that is the file, whose text starts so, or the first of a list or of lines."""
    try:
        first, _ = json.JSONDecoder().raw_decode(start.removeprefix("[").lstrip())
    except (ValueError, RecursionError):
        # It goes on behind the start, or is no JSON at all.
        try:
            is_list = start.startswith("[")
            first = next(json_list(file), []) if is_list else next(json_lines(file))[1]
        except DataError:
            first = read_json(file)
        if first == []:
            raise DataError(f"{file} holds no samples: it is an empty list") from None
    if not isinstance(first, dict):
        raise DataError(f"{file}: a JSON object is needed, not {type(first).__name__}")
    return first
