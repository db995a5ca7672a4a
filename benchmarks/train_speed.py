# ruff: noqa: E402
"""How fast a projector trains on captions: this recipe, with each of its features switched off in
turn, beside the obvious way. See README.md.

    python benchmarks/train_speed.py --json
"""

import logging
import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from json import dumps
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# In front of the imports: in every process, it warns of an optional kernel that is not installed.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

import torch
from measured import Filled, Measured, machine
from obvious_way import OBVIOUS, fastest_dtype, time_trainer
from recipe_way import RECIPE, VARIANTS, prepare, time_recipe
from rich.console import Console
from rich.table import Table
from settings import CAPTIONS, CPU, CUDA, Setting

EPOCHS = 3
"""Over which the filling of the feature cache is spread, where it is counted."""


def main(tokens: int | None = None, quick: bool = False, json: bool = False) -> None:
    """Times the training of a projector on captions, this recipe beside transformers' Trainer."""
    settings = CUDA if torch.cuda.is_available() else CPU
    chosen = [setting for setting in settings if tokens in (None, setting.tokens)]
    if not chosen:
        known = ", ".join(str(setting.tokens) for setting in settings)
        sys.exit(f"train_speed: no setting has {tokens} image tokens, there are {known}")
    # Narrower, the table would not fit: a pipe counts as 80.
    console = Console(highlight=False, width=max(100, Console().width))
    line: dict[str, Any] = {"machine": machine()}
    console.print(f"{line['machine']}; shapes are real, weights, photos and captions are made up")
    for setting in chosen:
        filled, rows = compare(setting, [RECIPE] if quick else list(VARIANTS), console)
        console.print(table_of(setting, filled, rows))
        line |= summary(setting, filled, rows)
    if json:
        print(dumps(line))


def compare(
    setting: Setting, variants: list[str], console: Console
) -> tuple[Filled, dict[str, Measured]]:
    """Measures one setting: the filling of the feature cache, and the rows of the table. Each has a
    process of its own, so that its peak memory is its own."""
    with TemporaryDirectory() as folder:

        def row(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
            console.print(f"{setting.name}: {name}", style="dim")
            with ProcessPoolExecutor(1, get_context("spawn"), be_quiet) as executor:
                return executor.submit(function, setting, Path(folder), *arguments).result()

        filled = row("photos, captions, weights and feature cache", prepare)
        first, *others = variants
        # Next to each other, should the machine be disturbed.
        rows = {first: row(first, time_recipe, first)}
        rows[OBVIOUS] = row(OBVIOUS, time_trainer, filled.flops, fastest_dtype(setting))
        rows |= {name: row(name, time_recipe, name) for name in others}
    return filled, rows


def be_quiet() -> None:
    """For a process: what it prints is not shown."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def amortised(filled: Filled, recipe: Measured) -> float:
    """Captions a second over `EPOCHS` epochs, the filling of the cache counted."""
    return EPOCHS * CAPTIONS / (EPOCHS * CAPTIONS / recipe.captions + 1 / filled.photos)


def table_of(setting: Setting, filled: Filled, rows: dict[str, Measured]) -> Table:
    """Each way to train, and how it compares with the obvious one."""
    table = Table(
        title=f"{setting.name}: {setting.tokens} image tokens, {setting.photos} photos with "
        f"{CAPTIONS} captions each in a step",
        title_justify="left",
    )
    obvious = rows[OBVIOUS]
    with_mfu = obvious.mfu is not None
    table.add_column("")
    mfu = ["MFU"] * with_mfu
    for column in ("precision", "captions/s", "speed-up", "tokens/s", *mfu, "memory", "loss"):
        table.add_column(column, justify="right")
    for name, row in rows.items():
        table.add_row(
            name if name in (RECIPE, OBVIOUS) else f"  {name}",
            row.precision,
            f"{row.captions:,.2f}",
            f"{row.captions / obvious.captions:.2f}x",
            f"{row.tokens:,.0f}",
            *([f"{row.mfu:.1%}"] if with_mfu else []),
            f"{row.memory / 2**30:.2f} GiB",
            f"{row.loss:.4f}",
        )
        if name == RECIPE:
            captions = amortised(filled, row)
            table.add_row(
                f"  {EPOCHS} epochs, cache filled first",
                row.precision,
                f"{captions:,.2f}",
                f"{captions / obvious.captions:.2f}x",
                *[""] * (1 + with_mfu),
                f"{max(filled.memory, row.memory) / 2**30:.2f} GiB",
            )
    return table


def summary(setting: Setting, filled: Filled, rows: dict[str, Measured]) -> dict[str, Any]:
    """What the line of JSON says of a setting, see README.md."""
    recipe, obvious, tokens = rows[RECIPE], rows[OBVIOUS], setting.tokens
    return {
        f"speedup_{tokens}": round(amortised(filled, recipe) / obvious.captions, 2),
        f"steady_speedup_{tokens}": round(recipe.captions / obvious.captions, 2),
        f"memory_{tokens}": round(max(filled.memory, recipe.memory) / obvious.memory, 2),
        f"details_{tokens}": {
            "model": setting.name,
            "photos_in_step": setting.photos,
            "photos_encoded_per_second": filled.photos,
            "rows": {name: asdict(row) for name, row in rows.items()},
        },
    }


if __name__ == "__main__":
    parser = ArgumentParser(description="Time this recipe beside transformers' Trainer.")
    parser.add_argument("--tokens", type=int, help="only the setting with so many image tokens")
    parser.add_argument("--quick", action="store_true", help="only the recipe and the Trainer")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    main(**vars(parser.parse_args()))
