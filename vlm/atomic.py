"""Folders that are whole or not there, whatever crashes and however many processes write."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError

from vlm.errors import CheckpointError, WeightsError


def make_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Makes a folder that is either whole or not there; of several processes, one makes it.

    Args:
        folder: the folder; if it is there, nothing is done.
        build: fills the empty folder it is given.

    Returns:
        `folder`.

    Raises:
        WeightsError: the folder cannot be written.
    """
    try:
        if folder.is_dir():
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if folder.is_dir():
                return folder
            partial = folder.with_name(f"{folder.name}.partial")
            # What a crashed run left; the lock says that nobody is writing it now.
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir()
            build(partial)
            # On disk before the rename, or a power cut could leave a folder of empty files.
            for path in [*partial.rglob("*"), partial]:
                sync(path)
            partial.rename(folder)
            sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"cannot make {folder}: {' '.join(str(error).split())}; "
            "VLM_CACHE names another place for it"
        ) from error
    return folder


def replace_folder(folder: Path, write: Callable[[Path], None], holds: str) -> None:
    """Writes a folder aside and moves it into place whole.

    Args:
        folder: where it goes.
        write: fills the empty folder it is given.
        holds: a file by which an old folder of the same kind is known; no other folder is replaced.

    Raises:
        CheckpointError: another kind of folder is there, or the disk refuses.
    """
    folder = folder.expanduser().resolve()
    partial = folder.with_name(f".{folder.name}.partial")
    old = folder.with_name(f".{folder.name}.old")
    try:
        if folder.exists() and not (folder / holds).is_file() and any(folder.iterdir()):
            raise CheckpointError(
                f"{folder} is there already and has no {holds}: choose another folder"
            )
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        for path in [*partial.rglob("*"), partial]:
            sync(path)
        if folder.exists():
            # Only now: after a crash between the two renames it is the one whole checkpoint.
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        partial.rename(folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"cannot write {folder}: {reason}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
