"""Samples that are skipped: listed in a file, counted by reason, too many of them an error."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from vlm.data.captioned import write_records
from vlm.data.sample import Skipped, by_reason
from vlm.errors import DataError


def write_report(skipped: Iterable[Skipped], file: Path) -> None:
    """Writes JSON-lines with `where`, `reason` and `detail` of each sample; after a crash, it is
    the whole file or the one that was there.

    Raises:
        DataError: the file cannot be written.
    """
    write_records(file, map(asdict, skipped))


def append_report(skipped: Iterable[Skipped], file: Path) -> None:
    """Adds samples that turned out unusable to a report, each once: they do so in every epoch.

    Raises:
        DataError: the file cannot be written.
    """
    there = set(read_report(file))
    try:
        with file.open("a", encoding="utf-8") as lines:
            for one in dict.fromkeys(skipped):
                if one not in there:
                    lines.write(json.dumps(asdict(one)) + "\n")
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror}") from error


def read_report(file: Path) -> list[Skipped]:
    """The samples of a report; none if there is no file. A line that a crash tore is left out.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        lines = file.read_bytes().split(b"\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from error
    return [Skipped(**json.loads(line)) for line in lines]


def check_share(skipped: Sequence[Skipped], total: int, allowed: float, file: Path) -> None:
    """Checks that few enough samples are skipped.

    Args:
        skipped: samples that cannot be used.
        total: samples, those that can be used among them.
        allowed: share of the samples that may be skipped.
        file: the report, for the message.

    Raises:
        DataError: more than that; says for which reasons.
    """
    if len(skipped) > allowed * total:
        raise DataError(
            f"{len(skipped)} of {total} samples cannot be used ({by_reason(skipped)}), more "
            f"than the {allowed:.4g} that allowed_unusable allows: see {file}"
        )
