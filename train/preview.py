"""`vlm data`: training data as the model will see it, and what of it cannot be used."""

import itertools
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from rich.console import Console
from rich.progress import track
from rich.table import Column, Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

import vlm
from train.config import PreviewConfig, TrainConfig
from train.epochs import longest
from train.loader import first_prompts, prompts_of, read_photo
from train.order import epoch_order
from vlm.checkpoint import read
from vlm.data.read import read_sources
from vlm.data.sample import Sample, Samples, Skipped, SkipSample, by_reason, counted
from vlm.errors import shortened
from vlm.prompt import Prompt


@dataclass
class Checked:
    """A source when every photo was decoded, and tokens of each conversation that can be used."""

    found: Samples
    lengths: list[int]


def show(config: PreviewConfig) -> None:
    """Shows the data of a training run; every photo is opened."""
    config.resolve()
    sources = read_sources([*config.data, *(config.validation or [])])
    model = prompting_model(config)
    max_length = longest(config, model)
    prompt = partial(model.prompt, answer_next=False)

    def longest_prompts(sample: Sample) -> list[Prompt]:
        # Whichever question an epoch draws, no conversation is longer than with this one.
        sample = replace(sample, questions=tuple(sorted(sample.questions, key=len)[-1:]))
        return prompts_of(sample, prompt, random.Random(config.seed), max_length)

    checked = check_samples(sources, longest_prompts, Console(stderr=True))
    # A character that the terminal's encoding lacks, or half a surrogate pair, must not end it.
    sys.stdout.reconfigure(errors="backslashreplace")
    console = Console()
    # Training too finds out only on the way what cannot be used: the order is that of all.
    training = [one.usable for one in sources[: len(config.data)]]
    weights = [source.weight for source in config.data]
    order = epoch_order(list(map(len, training)), weights, config.seed, epoch=0)
    samples = [sample for usable in training for sample in usable]
    epoch = first_prompts([samples[i] for i in order], prompt, config.seed, max_length)
    whole = {sample for one in checked for sample in one.found.usable}
    shown = itertools.islice((each for each in epoch if each[0] in whole), config.show)
    print_samples(shown, model.language.tokenizer, console)
    console.print(summary_table(checked))
    if dropped := sum((each.found.dropped for each in checked), Counter()):
        console.print(f"dropped from samples: {counted(dropped)}", soft_wrap=True)
    print_skipped([one for each in checked for one in each.found.skipped], console, config.show)


def prompting_model(config: TrainConfig) -> vlm.VisionLanguageModel:
    """The model on the CPU, without adapters or quantisation, which change no prompt."""
    parts = config.model if config.start is None else read(config.start)[0]
    plain = replace(parts.language, lora=None, load_in=None)
    return vlm.build(replace(parts, language=plain), "cpu")


def check_samples(
    sources: list[Samples], prompts: Callable[[Sample], list[Prompt]], console: Console
) -> list[Checked]:
    """Decodes every photo and writes every prompt; what that fails for is skipped too."""
    checked = []
    for found in sources:
        usable, skipped, lengths = [], list(found.skipped), []
        for sample in track(found.usable, "checking", console=console, transient=True):
            try:
                for photo in sample.photos:
                    read_photo(photo)
                lengths += map(len, prompts(sample))
                usable.append(sample)
            except SkipSample as error:
                skipped.append(error.at(sample.where))
        checked.append(Checked(replace(found, usable=usable, skipped=skipped), lengths))
    return checked


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
        found = one.found
        table.add_row(
            Text(found.source.path),
            found.format,
            f"{len(found.usable):,}",
            f"{len(one.lengths):,}",
            f"{median(one.lengths):,.0f}" if one.lengths else "",
            f"{max(one.lengths):,}" if one.lengths else "",
            by_reason(found.skipped) or "none",
        )
    return table


def print_skipped(skipped: list[Skipped], console: Console, count: int) -> None:
    """Prints the first samples that cannot be used, and how many more there are."""
    for one in skipped[:count]:
        console.print(Text(str(one), style="red"), soft_wrap=True)
    if len(skipped) > count:
        console.print(f"and {len(skipped) - count:,} more that are skipped")
