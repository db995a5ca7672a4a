"""Files of JSON rows, one a line, each with its step: written on while a run goes on, cut back
where it is taken up again."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from vlm.errors import DataError, VLMError
from vlm.files import sync


def open_rows(path: Path, first_step: int) -> TextIO:
    """Opens a file to write rows behind a step; those behind it that are there already, and a last
    line that a crash tore, are removed. With 0 the file is begun anew.

    Raises:
        VLMError: it cannot be written.
        DataError: a line of it is no row; names the line.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if first_step and path.exists():
            rows = [row for row in read_rows(path) if row["step"] <= first_step]
            replace_file(path, "".join(map(_line, rows)).encode())
        return path.open("a" if first_step else "w", encoding="utf-8", buffering=1)


def write_row(file: TextIO, row: dict[str, Any]) -> None:
    """Writes one row, which is then safe from whatever happens to this process.

    Raises:
        VLMError: it cannot be written.
    """
    with writing(Path(file.name)):
        file.write(_line(row))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file; a last line that a crash tore is left out.

    Raises:
        DataError: it cannot be read, or a line of it is no row; names the line.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise DataError(f"{path}, line {number}: not an object with a step")
        rows.append(row)
    return rows


def finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with None for numbers that are not finite, which JSON has no word for."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file aside and moves it into place when it is on the disk whole.

    Raises:
        VLMError: the disk refuses; what was there before is whole.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        try:
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, a disk that refuses is told in one line.

    Raises:
        VLMError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise VLMError(f"cannot write {path}: {reason}: make room or change output") from error


def _line(row: dict[str, Any]) -> str:
    return json.dumps(finite(row)) + "\n"
