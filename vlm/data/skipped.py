"""The report of skipped samples: JSON-lines with `where`, `reason` and `detail` of each; too many
of them are an error."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from vlm.data.sample import Skipped, by_reason
from vlm.errors import DataError
from vlm.files import append_rows, read_rows, write_rows


def write_report(skipped: Iterable[Skipped], file: Path) -> None:
    """See `write_rows`."""
    write_rows(file, map(asdict, skipped))


def append_report(skipped: Iterable[Skipped], file: Path) -> None:
    """See `append_rows`."""
    append_rows(file, map(asdict, skipped))


def read_report(file: Path) -> list[Skipped]:
    """The samples of a report; none if there is no file. See `read_rows`."""
    return [Skipped(**row) for _, row in read_rows(file)]


def check_share(skipped: Sequence[Skipped], total: int, allowed: float, file: Path) -> None:
    """A DataError, which says for which reasons, if more than a share of all samples, the skipped
    ones among them, are skipped."""
    if len(skipped) > allowed * total:
        raise DataError(
            f"{len(skipped)} of {total} samples cannot be used ({by_reason(skipped)}), more "
            f"than the {allowed:.4g} that allowed_unusable allows: see {file}"
        )
