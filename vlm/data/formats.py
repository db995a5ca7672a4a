"""Which format a source has: found by looking into it, never by its name."""

import json
import tarfile
from pathlib import Path
from typing import Any

from vlm.data.photos import ENDINGS
from vlm.data.records import files_in, head
from vlm.data.source import DataSource, Format
from vlm.errors import DataError
from vlm.files import disk, json_lines, read_json

KEYS: dict[Format, list[set[str]]] = {
    "llava": [{"conversations"}],
    "captions": [{"captions"}],
    "questions": [{"question", "answers"}, {"question", "answer"}],
    "vqa": [{"questions"}],
    "coco": [{"images", "annotations"}],
    "instances": [{"images", "annotations", "categories"}],
}
"""Any of these sets of keys makes JSON one of a format."""


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
            return _format_of_file(path)
    if any(mark in source.path for mark in "{*?["):
        return "shards"
    if source.path.count("/") == 1 and not path.is_absolute() and not path.suffix:
        return "dataset"
    raise DataError(f"no data at {source.path!r}: no such file or folder")


def _format_of_folder(folder: Path) -> Format:
    files = files_in(folder)
    names = {file.name for file in files if file.parent == folder}
    endings = {file.suffix.lower() for file in files}
    saved = not names.isdisjoint({"dataset_info.json", "dataset_dict.json"})
    holds: dict[Format, bool] = {
        "dataset": saved or ".parquet" in endings,
        "shards": ".tar" in endings,
        "sidecar": ".txt" in endings and not endings.isdisjoint(ENDINGS),
    }
    fits = [kind for kind, found in holds.items() if found]
    if len(fits) != 1:
        raise DataError(
            f"{folder} holds {', '.join(sorted(endings - {''})) or 'nothing'}; expected one of: "
            "photos with .txt beside them, .tar shards, .parquet, a data set that `datasets` "
            "saved; to read a file inside, give its own path"
        )
    return fits[0]


def _format_of_file(file: Path) -> Format:
    try:
        if tarfile.is_tarfile(file):
            return "shards"
    except EOFError as error:
        raise DataError(
            f"{file} is compressed and cut off: get it whole, and decompress it"
        ) from error
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
    fits: list[Format] = [kind for kind, sets in KEYS.items() if any(one <= keys for one in sets)]
    if fits == ["coco", "instances"]:
        # Captions may have categories, too.
        fits.remove("instances" if _captioned(first["annotations"]) else "coco")
    if len(fits) != 1:
        raise DataError(
            f"{file}: found the keys {', '.join(sorted(keys)) or '(none)'}; expected one of: "
            "conversations (LLaVA); captions; question and answers; questions (VQA v2); images and "
            "annotations (COCO captions, or instances with categories)"
        )
    return fits[0]


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
            _, first = next(json_lines(file))
        except DataError:
            first = read_json(file)
        if first == []:
            raise DataError(f"{file} holds no samples: it is an empty list") from None
        first = first[0] if isinstance(first, list) else first
    if not isinstance(first, dict):
        raise DataError(f"{file}: a JSON object is needed, not {type(first).__name__}")
    return first
