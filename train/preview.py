"""`vlm data`: training data as the model will see it, and what of it cannot be used."""

import random
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from statistics import median

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase

import vlm
from train.config import TrainConfig
from train.epochs import longest
from train.loader import first_prompts, prompts_of, read_photo
from train.mixture import epoch_order
from vlm.checkpoint import read
from vlm.data.read import read_sources
from vlm.data.sample import Sample, Samples, Skipped, SkipSample, by_reason
from vlm.errors import ConfigError
from vlm.prompt import Prompt, show_prompt


@dataclass
class Checked:
    """One source after every photo was decoded and every conversation tokenised.

    Attributes:
        found: the source's samples; `usable` holds those that really are.
        lengths: tokens of each conversation of the usable ones, behind the longest question that
            may be drawn for it.
    """

    found: Samples
    lengths: list[int]


@dataclass
class PreviewConfig(TrainConfig):
    """Look at training data as the model will see it; every photo is opened.

    Args:
        show: samples that are printed, the first of the first epoch that can be used; and of those
            that cannot, the first ones.
    """

    show: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.show < 0:
            raise ConfigError(f"show must be at least 0, not {self.show}")


def show(config: PreviewConfig) -> None:
    """Shows the data of a training run.

    Raises:
        DataError: data that cannot be read.
        ConfigError, WeightsError, CheckpointError: a model cannot be built.
    """
    config.resolve()
    sources = read_sources([*config.data, *(config.validation or [])])
    model = model_of(config)
    max_length = longest(config, model)
    prompt = partial(model.prompt, answer_next=False)

    def prompts(sample: Sample) -> list[Prompt]:
        # Whichever question an epoch draws, no conversation is longer than with this one.
        questions = tuple(sorted(sample.questions, key=len)[-1:])
        sample = replace(sample, questions=questions)
        return prompts_of(sample, prompt, random.Random(config.seed), max_length)

    checked = check(sources, prompts, Console(stderr=True))
    # A character that the terminal's encoding lacks, or half a surrogate pair, must not end it.
    sys.stdout.reconfigure(errors="backslashreplace")
    console = Console()
    # Training too finds out only on the way what cannot be used: the order is that of all.
    training = [one.usable for one in sources[: len(config.data)]]
    weights = [source.weight for source in config.data]
    order = epoch_order([len(usable) for usable in training], weights, config.seed, epoch=0)
    samples = [sample for usable in training for sample in usable]
    epoch = first_prompts([samples[i] for i in order], prompt, config.seed, max_length)
    whole = {sample for one in checked for sample in one.found.usable}
    shown = islice((each for each in epoch if each[0] in whole), config.show)
    show_samples(shown, model.language.tokenizer, console)
    console.print(summary(checked))
    show_skipped([one for each in checked for one in each.found.skipped], console, config.show)


def model_of(config: TrainConfig) -> vlm.VisionLanguageModel:
    """The model whose prompts these are, on the CPU, without adapters or quantisation, which change
    no prompt."""
    parts = config.model if config.start is None else read(config.start)[0]
    plain = replace(parts.language, lora=None, load_in=None)
    return vlm.build(replace(parts, language=plain), "cpu")


def check(
    sources: list[Samples], prompts: Callable[[Sample], list[Prompt]], console: Console
) -> list[Checked]:
    """Decodes every photo and writes every prompt; what that fails for is skipped too.

    Args:
        sources: what was read.
        prompts: of a sample.
        console: for the progress bar.
    """
    checked = []
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("checking", total=sum(len(found.usable) for found in sources))
        for found in sources:
            usable, skipped, lengths = [], list(found.skipped), []
            for sample in found.usable:
                try:
                    for photo in sample.photos:
                        read_photo(photo)
                    lengths += map(len, prompts(sample))
                    usable.append(sample)
                except SkipSample as error:
                    skipped.append(error.at(sample.where))
                progress.advance(task)
            checked.append(Checked(replace(found, usable=usable, skipped=skipped), lengths))
    return checked


def show_samples(
    shown: Iterable[tuple[Sample, list[Prompt]]],
    tokenizer: PreTrainedTokenizerBase,
    console: Console,
) -> None:
    """Prints each conversation of samples under its place and its lengths: supervised tokens green,
    image slots as `<image x49>`."""
    for sample, prompts in shown:
        names = ", ".join(photo.name for photo in sample.photos) or "no image"
        console.print(Text.assemble((sample.where, "bold"), f": {names}"), soft_wrap=True)
        for prompt in prompts:
            of_images = sum(map(len, prompt.image_slots))
            console.print(
                Text(
                    f"{len(prompt)} tokens, {of_images} of images, "
                    f"{sum(prompt.loss_mask)} supervised",
                    style="cyan",
                )
            )
            console.print(show_prompt(prompt, tokenizer))


def summary(checked: list[Checked]) -> Table:
    """A row for each source: what was found, what is skipped, how long conversations are."""
    table = Table(title="data")
    table.add_column("source", overflow="fold")
    table.add_column("format")
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


def show_skipped(skipped: list[Skipped], console: Console, count: int) -> None:
    """Prints the first samples that cannot be used, and how many more there are."""
    for one in skipped[:count]:
        line = f"{one.where}: {one.reason} {one.detail}"
        console.print(Text(" ".join(line.split()), style="red"), soft_wrap=True)
    if len(skipped) > count:
        console.print(f"and {len(skipped) - count:,} more that are skipped")
