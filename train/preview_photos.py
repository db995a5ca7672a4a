"""`vlm data` of stage `contrast`: photos, each with the texts that are right for it."""

import random
from collections.abc import Iterable
from itertools import islice

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from train.checked import CHECKED, broken, decoded, print_partly, print_skipped, some_of
from train.config import PreviewConfig
from train.photo_texts import PhotoTexts, read_photo_texts
from vlm.data.formats import format_of
from vlm.data.sample import by_reason
from vlm.errors import shortened


def show_photos(config: PreviewConfig, console: Console) -> None:
    """Shows the data of a CLIP's run."""
    sources = [*config.data, *(config.validation or [])]
    found = [read_photo_texts(source) for source in sources]
    training = [each for photos, _ in found[: len(config.data)] for each in photos]
    random.Random(config.seed).shuffle(training)
    print_photos(islice((e for e in training if broken([e.photo]) is None), config.show), console)
    table = Table(Column("source", overflow="fold"), "format", title="data")
    for name in ("photos", "texts", "different"):
        table.add_column(name, justify="right")
    table.add_column("skipped")
    checked, all_skipped = [], []
    for source, (photos, skipped) in zip(sources, found, strict=True):
        some = some_of(photos, None if config.all else CHECKED, config.seed)
        errors = decoded(some, lambda each: [each.photo])
        left = [error.at(each.photo.name) for each, error in errors if error is not None]
        texts = [text for each in photos for text in each.texts]
        counts = (len(photos) - len(left), len(texts), len(set(texts)))
        reasons = by_reason(skipped + left) or "none"
        table.add_row(Text(source.path), format_of(source), *map("{:,}".format, counts), reasons)
        checked.append((source, len(some), len(photos)))
        all_skipped += skipped + left
    console.print(table)
    for one in checked:
        print_partly(*one, "photos", console)
    print_skipped(all_skipped, console, config.show)


def print_photos(photos: Iterable[PhotoTexts], console: Console) -> None:
    """Prints each photo's name, its captions, and what is said of its classes."""
    for each in photos:
        console.print(Text(shortened(each.photo.name), "bold"), soft_wrap=True)
        for texts, style in ((each.captions, "green"), (each.labels, "cyan")):
            for text in texts:
                console.print(Text(f"  {text}", style), soft_wrap=True)
