"""Files: JSON and JSON-lines read with the place of each value; files, lines and folders written
whole or not at all, whatever crashes and however many processes write.

What cannot be read or written, or is not what it should be, is a DataError of one line, if nothing
else is said.
"""

import codecs
import gzip
import hashlib
import json
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock
from safetensors import SafetensorError

from vlm.errors import CheckpointError, DataError, VLMError, WeightsError

LARGEST = 2**31
"""Bytes of a JSON file that is read at all; LLaVA's mix of 665,000 conversations has 1.0 GB."""

PIECE = 1 << 20
"""Bytes of a file that are read at a time."""

SPACES = " \t\n\r"
SPACE = re.compile(f"[{SPACES}]*")
DECODE = json.JSONDecoder().raw_decode


@contextmanager
def disk(told: str, error: type[VLMError] = DataError, remedy: str = "") -> Iterator[None]:
    """Within, a disk that refuses, by an OSError or by safetensors' own, raises an `error` of one
    line: `told`, the reason, `remedy`."""
    try:
        yield
    except (OSError, SafetensorError) as refused:
        reason = getattr(refused, "strerror", None) or " ".join(str(refused).split())
        raise error(f"{told}: {reason}{remedy}") from refused


@contextmanager
def unpacked(file: Path) -> Iterator[BinaryIO]:
    """A file to read, unpacked on the way if it is gzip's, whatever its name."""
    try:
        with disk(f"cannot read {file}"), file.open("rb") as opened:
            packed = opened.peek(2)[:2] == b"\x1f\x8b"
            yield gzip.GzipFile(fileobj=opened) if packed else opened
    except (EOFError, zlib.error) as error:
        raise DataError(f"{file} is compressed, and cut off or damaged: get it whole") from error


def read_json(file: Path) -> Any:
    """What a JSON file of at most `LARGEST` holds; a byte-order mark is passed over."""
    with unpacked(file) as opened:
        if file.stat().st_size > LARGEST or len(content := opened.read(LARGEST + 1)) > LARGEST:
            raise DataError(f"{file} is larger than {LARGEST >> 30} GiB")
    return parse_json(str(file), content)


def read_text(file: Path) -> str:
    """A UTF-8 text; a byte-order mark is passed over."""
    with unpacked(file) as opened:
        try:
            return opened.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{file}: not UTF-8 text") from error


def parse_json(where: str, content: bytes) -> Any:
    """A JSON value; `where` it is goes into errors."""
    try:
        return json.loads(content)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 text") from error
    except json.JSONDecodeError as error:
        text = error.doc.rstrip()
        # Of a file of one line, or of lines of which it is one, `where` says the line.
        line = f"line {error.lineno}, " if "\n" in text else ""
        place = "at its end" if error.pos >= len(text) else f"{line}column {error.colno}"
        raise DataError(f"{where}: not JSON: {error.msg}, {place}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error


def json_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """The values of a JSON-lines file with their line numbers, from 1; blank lines and a
    byte-order mark are passed over."""
    with unpacked(file) as opened:
        for number in count(1):
            # What unpacks to one line without an end must not fill the memory.
            line = opened.readline(LARGEST)
            if not line:
                break
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield number, parse_json(f"{file}, line {number}", line)


def json_list(file: Path) -> Iterator[Any]:
    """The values of a JSON list in a file of at most `LARGEST`, one by one: the whole, which takes
    several times the memory of its text, is never there. A byte-order mark is passed over."""
    utf8 = codecs.getincrementaldecoder("utf-8-sig")("surrogatepass")
    text, at, mark, total = "", 0, "[", 0
    with unpacked(file) as opened:
        fits = file.stat().st_size <= LARGEST
        while fits:
            try:
                value, end = _listed(text, at, mark)
                if value:
                    yield from value
                    at, mark = end, ","
                    continue
                if not opened.peek(1) and not text[end:].strip(SPACES):
                    return
            except (ValueError, IndexError, RecursionError):
                pass
            try:
                # Twice as much each time, or a long value would be begun too often.
                piece = opened.read(max(PIECE, len(text) - at))
                text, at = text[at:] + utf8.decode(piece), 0
            except UnicodeDecodeError:
                break
            total += len(piece)
            if not piece or total > LARGEST:
                break
    read_json(file)
    raise DataError(f"{file} has changed while it was read: start again")


def _listed(text: str, at: int, mark: str) -> tuple[list[Any], int]:
    """The value behind a mark, `[` or a comma, from a place of a text on, and the place behind the
    value; no value where the list ends. A ValueError or an IndexError if it goes on or is wrong."""
    start = SPACE.match(text, at).end()
    if mark == "," and text[start] == "]":
        return [], start + 1
    if text[start] != mark:
        raise ValueError
    begin = SPACE.match(text, start + 1).end()
    if mark == "[" and text[begin] == "]":
        return [], begin + 1
    value, end = DECODE(text, begin)
    # A number could go on, too.
    if text[SPACE.match(text, end).end()] not in ",]":
        raise ValueError
    return [value], end


def read_rows(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file that `append_rows` writes, with their line numbers; none if there is no
    file. A last line that a crash tore is left out."""
    with disk(f"cannot read {file}"):
        try:
            lines = file.read_bytes().split(b"\n")[:-1]
        except (FileNotFoundError, NotADirectoryError):
            return []
    rows = []
    for number, line in enumerate(lines, start=1):
        row = parse_json(f"{file}, line {number}", line)
        if not isinstance(row, dict):
            raise DataError(f"{file}, line {number}: a JSON object is needed")
        rows.append((number, row))
    return rows


def append_rows(file: Path, rows: Iterable[dict[str, Any]], durable: bool = False) -> None:
    """Writes objects behind the whole lines that are there; a torn last line is written over.
    Durable ones are on the disk when it returns, whatever happens to the machine."""
    text = "".join(map(json_line, rows)).encode()
    with disk(f"cannot write {file}"), file.open("a+b") as opened:
        end = opened.seek(0, os.SEEK_END)
        if end:
            opened.seek(end - 1)
            if opened.read(1) != b"\n":
                opened.seek(0)
                opened.truncate(opened.read().rfind(b"\n") + 1)
        opened.write(text)
        opened.flush()
        if durable:
            os.fsync(opened.fileno())


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes objects as JSON-lines, whole, see `write_file`."""
    write_file(file, "".join(map(json_line, rows)))


def json_line(row: dict[str, Any]) -> str:
    """A line of JSON-lines. Halves of UTF-16 pairs, which a path may have, are escaped."""
    text = json.dumps(row, ensure_ascii=False)
    return re.sub("[\ud800-\udfff]", lambda half: f"\\u{ord(half[0]):04x}", text) + "\n"


def write_file(file: Path, content: str | bytes) -> None:
    """Writes a file aside and moves it into place when it is on the disk whole: after a crash it is
    the new one or the one that was there. Folders above it are made."""
    content = content.encode() if isinstance(content, str) else content
    partial = file.with_name(f".{file.name}.partial")
    with disk(f"cannot write {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            partial.replace(file)
            sync(file.parent)
        finally:
            partial.unlink(missing_ok=True)


def sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def make_once(
    folder: Path, build: Callable[[Path], None], good: Callable[[Path], bool] = Path.is_dir
) -> Path:
    """Makes a folder that is either whole or not there, from an empty one that `build` fills; of
    several processes, one makes it. One that is there and not `good` is replaced. A disk that
    refuses is a WeightsError."""
    partial = folder.with_name(f"{folder.name}.partial")
    with disk(f"cannot make {folder}", WeightsError, "; VLM_CACHE names another place for it"):
        if good(folder):
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if good(folder):
                return folder
            # What a crashed run left; the lock says that nobody is writing it now.
            shutil.rmtree(partial, ignore_errors=True)
            try:
                partial.mkdir()
                build(partial)
                settle(partial)
                shutil.rmtree(folder, ignore_errors=True)
                partial.rename(folder)
                sync(folder.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def replace_folder(folder: Path, write: Callable[[Path], None], holds: str) -> None:
    """Moves a folder that `write` has filled into place whole. An old one of the same kind, known
    by a file that it `holds`, is replaced; another one, like a disk that refuses, is a
    CheckpointError."""
    folder = folder.expanduser().resolve()
    partial = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    try:
        with disk(f"cannot write {folder}", CheckpointError):
            if folder.exists() and not (folder / holds).is_file() and any(folder.iterdir()):
                raise CheckpointError(
                    f"{folder} is there already and has no {holds}: choose another folder"
                )
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            settle(partial)
            if folder.exists():
                # Only now: after a crash between the two renames it is the one whole checkpoint.
                shutil.rmtree(old, ignore_errors=True)
                folder.rename(old)
            partial.rename(folder)
            sync(folder.parent)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def settle(folder: Path) -> None:
    """Lets those read a folder's files who may read the folder (safetensors writes for the owner
    alone), and waits until all is on the disk: renamed before, it could after a power cut be a
    folder of empty files."""
    mode = folder.stat().st_mode & 0o666
    for path in [*folder.rglob("*"), folder]:
        if path.is_file():
            path.chmod(mode)
        sync(path)


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
