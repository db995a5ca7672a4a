"""Tables of Hugging Face `datasets`: on the hub, saved in a folder, or Parquet."""

import os
from pathlib import Path
from typing import Any

from vlm.errors import DataError


def load_table(
    path: str, subset: str | None = None, split: str | None = None
) -> tuple[Any, str | None]:
    """One split of a data set, by its id on the hub or its folder, as a `datasets.Dataset`, and the
    name of the split if it has one. None is the only subset, the only split. A DataError if there
    is no such split names those that there are."""
    whole = _load(path, subset)
    if not isinstance(whole, dict):
        return whole, None if whole.split is None else str(whole.split)
    split = next(iter(whole)) if split is None and len(whole) == 1 else split
    if split not in whole:
        asked = "" if split is None else f"no split {split!r}; "
        raise DataError(f"{path}: {asked}name one of its splits: {', '.join(whole)}")
    return whole[split], split


def split_names(path: str, subset: str | None = None) -> list[str]:
    """The splits of a data set; one that was saved alone may have none."""
    whole = _load(path, subset)
    if isinstance(whole, dict):
        return list(whole)
    return [] if whole.split is None else [str(whole.split)]


def _load(path: str, subset: str | None) -> Any:
    # Slow to import, and few sources need it.
    import datasets

    folder = Path(path)
    saved = any(os.path.isfile(folder / f"dataset_{kind}.json") for kind in ("info", "dict"))
    try:
        if saved:
            return datasets.load_from_disk(path)
        if os.path.isfile(path):
            return datasets.load_dataset("parquet", data_files=path)
        return datasets.load_dataset(path, subset)
    except Exception as error:
        # It raises whatever its parsers do: YAML's errors, or a KeyError for damaged JSON.
        here = "" if os.path.exists(folder) else "no such file or folder, and on the hub: "
        reason = f"{' '.join(str(error).split())} ({type(error).__name__})"
        reason += "; `subset` names one" * ("onfig name is missing" in reason)
        raise DataError(f"cannot read the data set {path!r}: {here}{reason}") from error
