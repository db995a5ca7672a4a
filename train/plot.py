"""The curve of a run as a picture: loss, validation loss and learning rate over the steps."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from train.log import read_log
from vlm.errors import DataError
from vlm.files import write_file

TRAINING, VALIDATION, RATE = "#1f77b4", "#d62728", "#999999"


def plot(metrics: Path, output: Path) -> None:
    """Draws a PNG from the `metrics.jsonl` of a run, also of one that has not ended."""
    rows = read_log(metrics)
    steps = [row for row in rows if row.get("loss") is not None]
    held_out = [row for row in rows if row.get("validation_loss") is not None]
    if not steps:
        raise DataError(f"{metrics} has no step with a loss: nothing to draw")
    # Not pyplot, whose figures are global and whose backend is whatever the machine has.
    figure = Figure(figsize=(9, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    rates = axes.twinx()
    rates.set_ylabel("learning rate", color=RATE)
    at, losses = [row["step"] for row in steps], [row["loss"] for row in steps]
    lines = [
        *rates.plot(at, [row["learning_rate"] for row in steps], ":", color=RATE),
        *axes.plot(at, losses, color=TRAINING, alpha=0.25, linewidth=0.7),
        *axes.plot(at, smoothed(losses, span=max(1, len(at) // 50)), color=TRAINING),
    ]
    names = ["learning rate", "training", "training, smoothed", "validation"]
    if held_out:
        validation = [row["validation_loss"] for row in held_out]
        lines += axes.plot([row["step"] for row in held_out], validation, "o", color=VALIDATION)
    rates.set_ylim(bottom=0)
    axes.set_zorder(rates.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(lines, names[: len(lines)])
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_file(output, picture.getvalue())


def smoothed(values: Sequence[float], span: float) -> list[float]:
    """Running mean in which a value counts 1/e as much `span` values later. The sum of the weights
    is divided by, so that the first value has no more weight than its own."""
    keep = math.exp(-1 / span)
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means
