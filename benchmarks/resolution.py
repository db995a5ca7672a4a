"""What more pixels of a photo give, and what they cost: captions of a model and retrieval by a dual
encoder whose photos are larger than it learned them, and the same photos in tiles of the size that
it learned. See README.md.

    python benchmarks/resolution.py --data DATA/flickr8k --clip openai/clip-vit-base-patch32
    python benchmarks/resolution.py --data DATA/flickr8k --photos 200 --plot resolution.png --json
"""

from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from json import dumps
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from data_scale import straight_line
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measured import machine
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

import vlm
from eval.benchmarks.captions import FLICKR8K
from eval.question import Question
from vlm.checkpoint import load_tensors, read
from vlm.clip import DualEncoder, load_clip
from vlm.images import load_image
from vlm.messages import with_images
from vlm.preprocess import Preprocessing
from vlm.retrieval import retrieval
from vlm.tiles import Tiles

SIZES = [224, 448, 896, 1792, 2048]
"""Sides of the photos in pixels: 49 to 4,096 patches of the embedded model."""

INTERPOLATED, TILED = "interpolated", "tiled"
ROW_BREAK = "projector.row_break"

Grids = list[list[int]] | None


@dataclass(frozen=True)
class Row:
    """Of photos of one size, in one way: mean image tokens; 10^9 operations to encode a photo and
    read its prompt, and seconds to caption it; CIDEr-D in percent; and R@1 of photos looking for
    their captions and of captions looking for their photos, in percent, None without `--clip`."""

    tokens: float
    gflops: float
    seconds: float
    cider: float | None
    photo_to_text: float | None = None
    text_to_photo: float | None = None


def main(
    data: Path,
    model: str = "embedded",
    clip: str | None = None,
    split: str = "test",
    photos: int | None = None,
    sizes: Sequence[int] = SIZES,
    json: bool = False,
    plot: Path | None = None,
) -> None:
    """Measures each size in both ways; in tiles, those that are several of the model's own."""
    console = Console(highlight=False, width=max(100, Console().width))
    questions = FLICKR8K.load(data, split)[:photos]
    encoder = None if clip is None else load_clip(clip)
    if encoder is None:
        console.print("R@1 is left out: --clip names a CLIP or SigLIP that has it")
    own = at_size(model, None, None).vision.preprocessing.size
    rows: dict[str, dict[int, Row]] = {INTERPOLATED: {}, TILED: {}}
    for size, way in product(sizes, rows):
        if way == INTERPOLATED or grids_of(size, own):
            console.print(f"{size} px, {way}", style="dim")
            rows[way][size] = measure(model, encoder, questions, size, own, way)
    print_table(
        rows, console, f"{len(questions)} photos, {model}, {clip or 'no clip'}, {machine()}"
    )
    line: dict[str, Any] = {
        "machine": machine(),
        "rows": {way: {n: asdict(row) for n, row in of.items()} for way, of in rows.items()},
    }
    if plot:
        line["exponents"] = draw(rows, plot)
        console.print(f"{plot}: exponents {line['exponents']}")
    if json:
        print(dumps(line))


def grids_of(size: int, own: int) -> Grids:
    """All grids of tiles that fit into a square of so many pixels; None if there is no more than
    the one tile, or some pixels are left."""
    side = range(1, size // own + 1)
    return [[r, c] for r in side for c in side if r * c > 1] or None if size % own == 0 else None


@torch.no_grad()
def measure(
    name: str,
    encoder: DualEncoder | None,
    questions: list[Question],
    size: int,
    own: int,
    way: str,
) -> Row:
    """One way at one size."""
    tiled = way == TILED
    model = at_size(name, own if tiled else size, grids_of(size, own) if tiled else None)
    costs: dict[tuple[int, int], float] = {}
    tokens, flops = [], []
    for question in questions:
        prompt = model.prompt(with_images(question.text, question.image))
        key = prompt.squares, len(prompt)
        if key not in costs:
            costs[key] = gflops(model, load_image(question.image), len(prompt))
        tokens.append(sum(map(len, prompt.image_slots)))
        flops.append(costs[key])
    began = perf_counter()
    asked = [(question.image, question.text) for question in questions]
    answers = model.batch(asked, batch_size=1, max_tokens=FLICKR8K.max_tokens)
    seconds = (perf_counter() - began) / len(questions)
    cider = FLICKR8K.score(questions, answers).overall
    row = Row(float(np.mean(tokens)), float(np.mean(flops)), seconds, cider)
    sees = None if encoder is None else seeing(encoder.preprocessing, size, tiled)
    return row if sees is None else replace(row, **recall(encoder, questions, sees))


def at_size(name: str, size: int | None, grids: Grids) -> vlm.VisionLanguageModel:
    """A model whose photos have another size than it was trained at; row breaks that it has not
    learned are random."""
    config, tensors = read(name)
    config.vision = replace(config.vision, image_size=size or config.vision.image_size, tiles=grids)
    model = vlm.build(config)
    if tensors is not None:
        leave = frozenset() if grids else frozenset({ROW_BREAK})
        load_tensors(model, tensors, model.trained - {ROW_BREAK}, leave)
        model.projector.to(model.language.dtype)
    model.language.merge_adapters()
    return model.requires_grad_(False).eval()


def gflops(model: vlm.VisionLanguageModel, photo: Image.Image, length: int) -> float:
    """10^9 operations for a photo's image tokens and a prompt of so many tokens, a multiplication
    and its addition being two."""
    prompt = torch.zeros(1, length, model.language.width, device=model.device)
    prompt = prompt.to(model.language.dtype)
    # The backend of attention that torch counts on every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.project(model.vision(model.vision.see(photo).to(model.device)))
        model.language(prompt, logits_to_keep=1)
    return counter.get_total_flops() / 1e9


def seeing(own: Preprocessing, size: int, tiled: bool) -> Preprocessing | Tiles | None:
    """How a dual encoder sees a photo of this size; None if that is no grid of its own squares."""
    if not tiled:
        return own.at(size)
    grids = grids_of(size, own.size)
    whole = replace(own, resize="squash", shortest_edge=None)
    return Tiles(tuple(map(tuple, grids)), whole) if grids else None


def recall(
    encoder: DualEncoder, questions: list[Question], sees: Callable[[Image.Image], Tensor]
) -> dict[str, float]:
    """R@1 both ways; the embedding of a photo in tiles is the mean of those of all its squares."""
    before = encoder.preprocessing
    # By its size it knows whether to interpolate.
    encoder.preprocessing = getattr(sees, "preprocessing", sees)
    found = []
    for question in questions:
        squares = sees(load_image(question.image)).to(encoder.device)
        squares = squares if squares.ndim == 4 else squares[None]
        found.append(normalize(encoder.image_features(squares).mean(dim=0), dim=-1))
    encoder.preprocessing = before
    texts = encoder.text_features([text for each in questions for text in each.answers])
    owners = np.repeat(np.arange(len(questions)), [len(each.answers) for each in questions])
    similarity = (torch.stack(found) @ texts.T).cpu().numpy()
    rates = retrieval(similarity, owners == np.arange(len(questions))[:, None])
    return {way: rates[f"{way}_r1"] for way in ("photo_to_text", "text_to_photo")}


def print_table(rows: dict[str, dict[int, Row]], console: Console, title: str) -> None:
    table = Table("pixels", "", "image tokens", "GFLOPs", "s/photo", title=title)
    for name in ("CIDEr", "R@1 of texts", "R@1 of photos"):
        table.add_column(name, justify="right")
    for size, way in product(sorted({size for of in rows.values() for size in of}), rows):
        if row := rows[way].get(size):
            costs = f"{row.tokens:,.0f}", f"{row.gflops:,.1f}", f"{row.seconds:.2f}"
            scores = (row.cider, row.photo_to_text, row.text_to_photo)
            shown = ("" if score is None else f"{score:.1f}" for score in scores)
            table.add_row(str(size), way, *costs, *shown)
    console.print(table)


def draw(rows: dict[str, dict[int, Row]], output: Path) -> dict[str, float]:
    """Draws scores against pixels and costs against image tokens; gives the exponents of these."""
    figure = Figure(figsize=(15, 4.5), dpi=120, layout="constrained")
    quality, recalls, costs = figure.subplots(1, 3)
    exponents = {}
    for way, of in rows.items():
        for axes, names in ((quality, ["cider"]), (recalls, ["photo_to_text", "text_to_photo"])):
            for name in names:
                values = np.array([getattr(row, name) for row in of.values()], float)
                axes.semilogx(list(of), values, "o-", base=2, label=f"{way}, {name}")
        if len(of) > 1:
            tokens = [row.tokens for row in of.values()]
            spent = [row.gflops for row in of.values()]
            exponents[way] = straight_line(costs, tokens, spent, way)
    for axes, x, y in (
        (quality, "pixels a side", "CIDEr-D, %"),
        (recalls, "pixels a side", "R@1, %"),
        (costs, "image tokens", "GFLOPs a photo"),
    ):
        axes.set(xlabel=x, ylabel=y)
        axes.grid(alpha=0.3)
        axes.legend()
    FigureCanvasAgg(figure).print_png(output)
    return exponents


if __name__ == "__main__":
    parser = ArgumentParser(description="Measure captions and retrieval against input size.")
    parser.add_argument("--data", type=Path, required=True, help="captions.jsonl and images/")
    parser.add_argument(
        "--model", default="embedded", help="embedded, or a checkpoint of this project"
    )
    parser.add_argument("--clip", help="a CLIP or SigLIP, for R@1")
    parser.add_argument("--split", default="test", help="of captions.jsonl")
    parser.add_argument("--photos", type=int, help="the first so many; all if left out")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="sides in pixels")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--plot", type=Path, help="a PNG of scores and costs")
    main(**vars(parser.parse_args()))
