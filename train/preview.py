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
from rich.table import Column, Table
from rich.text import Text
from torch.utils.data import ConcatDataset, Subset
from transformers import PreTrainedTokenizerBase

import vlm
from train.checked import CHECKED, broken, decoded, print_partly, print_skipped, some_of
from train.config import PreviewConfig, TrainConfig
from train.epochs import longest
from train.loader import CUT, first_prompts, prompts_of, read_photo
from train.order import epoch_order
from train.preview_photos import show_photos
from vlm.checkpoint import read
from vlm.data.read import read_sources
from vlm.data.sample import Sample, Samples, Skipped, SkipSample, by_reason, counted
from vlm.errors import shortened
from vlm.prompt import Prompt


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
    readable = (each for each in epoch if broken(each[0].photos) is None)
    print_samples(itertools.islice(readable, config.show), model.language.tokenizer, console)
    console.print(summary_table(checked))
    for each in checked:
        print_partly(each.found.source, each.count, len(each.found.usable), "samples", console)
    if dropped := sum((each.dropped for each in checked), Counter()):
        console.print(f"dropped from samples: {counted(dropped)}", soft_wrap=True)
    print_skipped([one for each in checked for one in each.skipped], console, config.show)


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
    some = some_of(found.usable, most, seed)
    checked = Checked(found, len(some), list(found.skipped), Counter(found.dropped), [])
    for sample, error in decoded(some, lambda sample: sample.photos):
        try:
            if error is not None:
                raise error
            written, cut = prompts(sample)
            checked.lengths += map(len, written)
            checked.dropped.update({CUT: cut} if cut else {})
        except SkipSample as error:
            checked.skipped.append(error.at(sample.where))
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
