"""Trackers: TensorBoard, Weights & Biases and whatever else accelerate writes to."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from vlm.errors import ConfigError


def tracker_names(names: list[str] | None) -> list[str]:
    """Names of accelerate's trackers, each once; for None, TensorBoard if it is installed.

    Raises:
        ConfigError: one that does not exist or is not installed.
    """
    installed = [str(kind) for kind in get_available_trackers()]
    if names is None:
        return [name for name in installed if name == "tensorboard"]
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            choices = ", ".join(sorted(LOGGER_TYPE_TO_CLASS))
            raise ConfigError(f"no tracker {name!r}: there are {choices}")
        if name not in installed:
            raise ConfigError(f"tracker {name} is not installed: pip install {name}")
    return list(dict.fromkeys(names))


@contextmanager
def tracking(
    accelerator: Accelerator, names: list[str], folder: Path, first_step: int
) -> Iterator[None]:
    """Within, `accelerator.log` reaches the trackers.

    Args:
        accelerator: of the run; all its processes come here.
        names: as `tracker_names` gives them.
        folder: where those go that write files.
        first_step: steps done before; what TensorBoard was told of later ones is hidden.

    Raises:
        ConfigError: one that does not start.
    """
    accelerator.project_configuration.logging_dir = str(folder)
    accelerator.log_with = [LoggerType(name) for name in names]
    options = {"tensorboard": {"purge_step": first_step + 1 if first_step else 0}}
    try:
        accelerator.init_trackers("vlm", init_kwargs=options)
    except Exception as error:  # Each tracker has its own.
        accelerator.trackers.clear()
        reason = " ".join(str(error).split())
        raise ConfigError(f"cannot start the trackers {', '.join(names)}: {reason}") from error
    try:
        yield
    finally:
        # Accelerator.end_training also ends the process group, which the caller may still need.
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers.clear()
