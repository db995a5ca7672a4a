"""Samples that are set aside: listed in a file, counted by reason, too many of them an error."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from train.data.sample import SetAside, by_reason
from vlm.captions import write_records
from vlm.errors import DataError


def write_report(set_aside: Iterable[SetAside], file: Path) -> None:
    """Writes JSON-lines with `where`, `reason` and `detail` of each sample; after a crash, it is
    the whole file or the one that was there.

    Raises:
        DataError: the file cannot be written.
    """
    write_records(file, map(asdict, set_aside))


def append_report(set_aside: Iterable[SetAside], file: Path) -> None:
    """Adds samples that turned out unusable to a report, each once: they do so in every epoch.

    Raises:
        DataError: the file cannot be written.
    """
    there = set(read_report(file))
    try:
        with file.open("a", encoding="utf-8") as lines:
            for one in dict.fromkeys(set_aside):
                if one not in there:
                    lines.write(json.dumps(asdict(one)) + "\n")
    except OSError as error:
        raise DataError(f"cannot write {file}: {error.strerror}") from error


def read_report(file: Path) -> list[SetAside]:
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
    return [SetAside(**json.loads(line)) for line in lines]


def check_share(set_aside: Sequence[SetAside], total: int, allowed: float, file: Path) -> None:
    """Checks that few enough samples are set aside.

    Args:
        set_aside: samples that cannot be used.
        total: samples, those that can be used among them.
        allowed: share of the samples that may be set aside.
        file: the report, for the message.

    Raises:
        DataError: more than that; says for which reasons.
    """
    if len(set_aside) > allowed * total:
        raise DataError(
            f"{len(set_aside)} of {total} samples cannot be used ({by_reason(set_aside)}), more "
            f"than the {allowed:.4g} that allowed_unusable allows: see {file}"
        )
