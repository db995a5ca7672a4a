"""`vlm data`: training data as the model will see it, and what of it cannot be used."""

import itertools
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text
from torch.utils.data import ConcatDataset, Subset
from transformers import PreTrainedTokenizerBase

import vlm
from train.config import PreviewConfig, TrainConfig
from train.epochs import longest
from train.loader import CUT, first_prompts, prompts_of, read_photo
from train.order import epoch_order
from train.photo_texts import read_photo_texts
from vlm.checkpoint import read
from vlm.data.formats import format_of
from vlm.data.photos import Photo
from vlm.data.read import read_sources
from vlm.data.sample import Sample, Samples, Skipped, SkipSample, by_reason, counted
from vlm.data.source import DataSource
from vlm.errors import shortened
from vlm.prompt import Prompt

CHECKED = 1000
"""Samples of each source that are checked if nothing else is said."""

AT_ONCE = 256
"""Samples whose photos are decoded side by side."""


@dataclass
class Checked:
    """A source of which so many samples were checked: all that are skipped, how often something is
    dropped, and tokens of each conversation that can be used."""

    found: Samples
    count: int
    skipped: list[Skipped]
    dropped: Counter[str]
    lengths: list[int]


def show(config: PreviewConfig) -> None:
    """Shows the data of a training run."""
    config.resolve()
    # A character that the terminal's encoding lacks, or half a surrogate pair, must not end it.
    sys.stdout.reconfigure(errors="backslashreplace")
    if config.stage == "contrast":
        return show_photos(config, Console())
    sources = read_sources([*config.data, *(config.validation or [])])
    model = prompting_model(config)
    max_length = longest(config, model)
    prompt = partial(model.prompt, answer_next=False, load=read_photo)

    def longest_prompts(sample: Sample) -> tuple[list[Prompt], int]:
        # Whichever question an epoch draws, no conversation is longer than with this one.
        sample = replace(sample, questions=tuple(sorted(sample.questions, key=len)[-1:]))
        return prompts_of(sample, prompt, random.Random(config.seed), max_length)

    most = None if config.all else CHECKED
    checked = [check(found, longest_prompts, most, config.seed) for found in sources]
    console = Console()
    # Training too finds out only on the way what cannot be used: the order is that of all.
    training = [one.usable for one in sources[: len(config.data)]]
    weights = [source.weight for source in config.data]
    order = epoch_order(list(map(len, training)), weights, config.seed, epoch=0)
    samples = Subset(ConcatDataset(training), order)
    epoch = first_prompts(samples, prompt, config.seed, max_length)
    shown = itertools.islice(
        (each for each in epoch if broken(each[0].photos) is None), config.show
    )
    print_samples(shown, model.language.tokenizer, console)
    console.print(summary_table(checked))
    for each in checked:
        print_partly(each.found.source, each.count, len(each.found.usable), "samples", console)
    if dropped := sum((each.dropped for each in checked), Counter()):
        console.print(f"dropped from samples: {counted(dropped)}", soft_wrap=True)
    print_skipped([one for each in checked for one in each.skipped], console, config.show)


def show_photos(config: PreviewConfig, console: Console) -> None:
    """Shows the data of a CLIP's run: photos, each with the texts that are right for it."""
    sources = [*config.data, *(config.validation or [])]
    read = [read_photo_texts(source) for source in sources]
    training = [each for photos, _ in read[: len(config.data)] for each in photos]
    draw = random.Random(config.seed)
    order = draw.sample(training, len(training))
    seen = (each for each in order if broken([each.photo]) is None)
    for each in itertools.islice(seen, config.show):
        console.print(Text(shortened(each.photo.name), "bold"), soft_wrap=True)
        for texts, style in ((each.captions, "green"), (each.labels, "cyan")):
            console.print(
                Text("".join(f"  {text}\n" for text in texts), style), end="", soft_wrap=True
            )
    table = Table(Column("source", overflow="fold"), "format", title="data")
    for name in ("photos", "texts", "different"):
        table.add_column(name, justify="right")
    table.add_column("skipped")
    checked = []
    for source, (photos, skipped) in zip(sources, read, strict=True):
        some = photos if config.all else draw.sample(photos, min(CHECKED, len(photos)))
        with ThreadPoolExecutor() as threads:
            errors = threads.map(broken, ([each.photo] for each in some))
            left = [e.at(p.photo.name) for p, e in zip(some, errors, strict=True) if e]
        skipped += left
        checked.append(len(some))
        texts = [text for each in photos for text in each.texts]
        sizes = (len(photos) - len(left), len(texts), len(set(texts)))
        counts = (f"{size:,}" for size in sizes)
        table.add_row(Text(source.path), format_of(source), *counts, by_reason(skipped) or "none")
    console.print(table)
    for source, (photos, _), count in zip(sources, read, checked, strict=True):
        print_partly(source, count, len(photos), "photos", console)
    print_skipped([one for _, skipped in read for one in skipped], console, config.show)


def prompting_model(config: TrainConfig) -> vlm.VisionLanguageModel:
    """The model on the CPU, without adapters or quantisation, which change no prompt."""
    parts = config.model if config.start is None else read(config.start)[0]
    plain = replace(parts.language, lora=None, load_in=None)
    return vlm.build(replace(parts, language=plain), "cpu")


def check(
    found: Samples,
    prompts: Callable[[Sample], tuple[list[Prompt], int]],
    most: int | None = None,
    seed: int = 0,
) -> Checked:
    """Decodes the photos and writes the prompts of the samples of a source, of `most` drawn ones if
    it has more; what that fails for is skipped too, and answers that a prompt has no room for are
    counted."""
    usable, places = found.usable, range(len(found.usable))
    if most is not None and len(usable) > most:
        places = sorted(random.Random(seed).sample(places, most))
    checked = Checked(found, len(places), list(found.skipped), Counter(found.dropped), [])
    bar = Progress(console=Console(stderr=True), transient=True)
    with bar, ThreadPoolExecutor() as threads:
        task = bar.add_task("checking", total=len(places))
        for start in range(0, len(places), AT_ONCE):
            samples = [usable[at] for at in places[start : start + AT_ONCE]]
            photos = [sample.photos for sample in samples]
            for sample, error in zip(samples, threads.map(broken, photos), strict=True):
                bar.advance(task)
                try:
                    if error is not None:
                        raise error
                    written, cut = prompts(sample)
                    checked.lengths += map(len, written)
                    checked.dropped.update({CUT: cut} if cut else {})
                except SkipSample as error:
                    checked.skipped.append(error.at(sample.where))
    return checked


def broken(photos: Iterable[Photo]) -> SkipSample | None:
    """Why a photo cannot be read, if one cannot."""
    try:
        for photo in photos:
            read_photo(photo)
    except SkipSample as error:
        return error
    return None


def print_samples(
    shown: Iterable[tuple[Sample, list[Prompt]]],
    tokenizer: PreTrainedTokenizerBase,
    console: Console,
) -> None:
    """Prints each conversation of samples under its place and its lengths."""
    for sample, prompts in shown:
        names = ", ".join(photo.name for photo in sample.photos) or "no image"
        console.print(
            Text.assemble((sample.where, "bold"), f": {shortened(names)}"), soft_wrap=True
        )
        for prompt in prompts:
            images, supervised = sum(map(len, prompt.image_slots)), sum(prompt.loss_mask)
            lengths = f"{len(prompt)} tokens, {images} of images, {supervised} supervised"
            console.print(Text(lengths, style="cyan"))
            console.print(show_prompt(prompt, tokenizer))


def show_prompt(prompt: Prompt, tokenizer: PreTrainedTokenizerBase) -> Text:
    """The sequence with supervised tokens in green and each image slot as `<image x49>`."""
    shown = Text()
    slot_at = {position: slot for slot in prompt.image_slots for position in slot}
    # Decoded in runs: the bytes of one character may be spread over several tokens.
    for (slot, supervised), run in itertools.groupby(
        range(len(prompt)), key=lambda i: (slot_at.get(i), prompt.loss_mask[i])
    ):
        if slot is not None:
            shown.append(f"<image x{len(slot)}>", style="bold magenta")
        else:
            text = tokenizer.decode([prompt.input_ids[position] for position in run])
            shown.append(text, style="green" if supervised else "dim")
    return shown


def summary_table(checked: list[Checked]) -> Table:
    """A row for each source: what was found, what is skipped, how long conversations are."""
    table = Table(Column("source", overflow="fold"), "format", title="data")
    # Narrow, or words would be cut where all columns do not fit.
    for name in ("samples", "conver-\nsations", "median\ntokens", "longest"):
        table.add_column(name, justify="right")
    table.add_column("skipped")
    for one in checked:
        usable = len(one.found.usable) - (len(one.skipped) - len(one.found.skipped))
        table.add_row(
            Text(one.found.source.path),
            one.found.format,
            f"{usable:,}",
            f"{len(one.lengths):,}",
            f"{median(one.lengths):,.0f}" if one.lengths else "",
            f"{max(one.lengths):,}" if one.lengths else "",
            by_reason(one.skipped) or "none",
        )
    return table


def print_partly(source: DataSource, count: int, total: int, what: str, console: Console) -> None:
    """Says how many of a source were checked, if not all."""
    if count < total:
        told = f"{source.path}: checked are {count:,} of {total:,} {what}; --all checks all"
        console.print(told, soft_wrap=True, markup=False)


def print_skipped(skipped: list[Skipped], console: Console, count: int) -> None:
    """Prints the first samples that cannot be used, and how many more there are."""
    for one in skipped[:count]:
        console.print(Text(str(one), style="red"), soft_wrap=True)
    if len(skipped) > count:
        console.print(f"and {len(skipped) - count:,} more that are skipped")
