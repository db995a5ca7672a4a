"""Make the embedded model: python -m train.embedded DATA."""

import os
from functools import partial
from pathlib import Path

from rich.console import Console

from train.config import TrainConfig
from train.embedded.prepare import prepare
from train.embedded.ship import ship
from train.run import train
from vlm import cli
from vlm.errors import DataError
from vlm.settings import read, read_file

CONFIGS = Path(__file__).parents[2] / "configs" / "embedded"
STAGES = ("clip", "align", "instruct", "rewards")
SETS = ("flickr8k", "coco_small", "coco_unlabelled", "everyday", "imagenet_samples", "daquar")


def main(data: Path, seed: int = 0, into: Path = Path("embedded")) -> None:
    """Make the embedded model, from data sets to weights; once more resumes where it ended.

    Args:
        data: folder of the unpacked data sets; runs are written beside them.
        seed: of all stages.
        into: folder of the model, in the folder of the data sets if it is no absolute path.
    """
    console = Console(stderr=True, highlight=False)
    missing = [name for name in SETS if not (data / name).is_dir()]
    if missing:
        raise DataError(f"{data} lacks the unpacked data sets {', '.join(missing)}")
    os.chdir(data)
    console.print("Preparing the data")
    prepare(Path())
    for number, stage in enumerate(STAGES, start=1):
        console.print(f"Stage {number} of {len(STAGES)}: {stage}")
        config = read(TrainConfig, read_file(str(CONFIGS / f"{stage}.yaml")))
        config.seed, config.resume = seed, True
        train(config)
    ship(Path("runs"), into)
    console.print(f"vlm chat PHOTO --model {data / into}: talks to it")


if __name__ == "__main__":
    raise SystemExit(cli.main(command=partial(cli.run, "python -m train.embedded", main)))
