"""What a vision-feature cache costs and saves: before it is filled, to decide, and after."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class FillReport:
    """What `FeatureCache.fill` did.

    Attributes:
        encoded: photos that passed through the tower.
        found: photos that were there already, or are another one's bytes under a second name.
        left_out: photos for which there was no room.
        broken: name of each photo that cannot be read, and why.
        seconds: it took.
        bytes: size of the features of all photos encoded or found.
    """

    encoded: int = 0
    found: int = 0
    left_out: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    bytes: int = 0

    @property
    def rate(self) -> float | None:
        """Photos encoded in a second; None if none was."""
        return self.encoded / self.seconds if self.encoded else None

    def __str__(self) -> str:
        parts = [f"features: {self.encoded + self.found:,} photos", _size(self.bytes)]
        if self.rate:
            rate = f"{self.rate:,.{0 if self.rate >= 10 else 1}f} photos/s"
            parts.append(f"{self.encoded:,} encoded in {_duration(self.seconds)} ({rate})")
        parts.append(f"{self.found:,} found")
        if self.left_out:
            parts.append(f"{self.left_out:,} left out for want of room")
        if self.broken:
            parts.append(f"{len(self.broken):,} broken")
        return ", ".join(parts)


def together(reports: Sequence[FillReport]) -> FillReport:
    """The report of processes that filled their shares side by side."""
    return FillReport(
        encoded=sum(report.encoded for report in reports),
        found=sum(report.found for report in reports),
        left_out=sum(report.left_out for report in reports),
        broken={name: why for report in reports for name, why in report.broken.items()},
        seconds=max(report.seconds for report in reports),
        bytes=sum(report.bytes for report in reports),
    )


def decide(
    mode: Literal["auto", "on", "off"],
    missing: int,
    photo_bytes: int,
    free_bytes: int,
    max_bytes: int,
    passes: float,
    rate: float | None = None,
) -> tuple[bool, str]:
    """Whether a cache is worth its place, and a line that says why.

    Args:
        mode: `auto`: if it saves at least half of the tower's passes, which takes two epochs where
            nothing is cached yet, there is room for it, and a tenth of what is free on the disk
            stays free.
        missing: those of them without features.
        photo_bytes: size of the features of a photo.
        free_bytes: on the disk.
        max_bytes: that the cache may still grow by.
        passes: of the tower that the run needs without a cache.
        rate: photos that the tower encodes in a second, if that is known.
    """
    needed = missing * photo_bytes
    saved = max(0, passes - missing)
    cost = _size(needed)
    saving = f"{saved:,.0f} of {passes:,.0f} passes of the tower"
    if rate:
        cost += f" and {_duration(missing / rate)}"
        saving += f", about {_duration(saved / rate)}"
    against = None
    if mode == "off":
        against = "the cache is off"
    elif mode == "auto" and missing:
        if saved < passes / 2:
            against = f"the run is short, a cache would save {saving}"
        elif needed > max_bytes:
            against = f"they need {cost}, the cache may take {_size(max(0, max_bytes))} more"
        elif needed > 0.9 * free_bytes:
            against = f"they need {cost}, the disk has {_size(free_bytes)} free"
    if against:
        return False, f"no vision features are cached: {against}"
    return True, f"vision features are cached: costs {cost}, saves {saving}"


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.0f} min"
