"""Widen the hidden layer of an MLP projector by units that know things already.

Training through a language model finds the features that tell a giraffe from a horse slowly; a
linear classifier of the same patch tokens has them. Each of its classes becomes one hidden unit.
The output weights of these units start at zero: the model is at first the same function, and
training has only to learn what each class means to the language model."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import Tensor, nn

import vlm
from train.embedded.captioned import CaptionedPhoto, read_captions
from train.embedded.imagenet import imagenet_network
from train.embedded.probe import fit_detectors, mean_tokens, photos_with_things
from vlm import cli
from vlm.checkpoint import require_new
from vlm.config import ModelConfig, ProjectorConfig
from vlm.efficientnet import EfficientNetTower
from vlm.errors import CheckpointError
from vlm.projector import MLP

GAIN = 10.0
"""Of the units: with large activations, small output weights already matter. Of a fresh projector's
detectors, 60 helped a little more than 10; classes are thirteen times as many: with 60 (30, in a
trained projector) the loss rose."""

THRESHOLD = {"things": -4.0, "classes": 3.0}
"""Taken from the logits of the units, which are silent below: things that are at all likely, and
classes as they are in 6% of the patches of a photo."""


def widen(
    model: vlm.VisionLanguageModel, files: list[Path], by: Literal["things", "classes"]
) -> vlm.VisionLanguageModel:
    """A model that gives the same logits and has more hidden units.

    Args:
        model: with an MLP projector.
        files: captions of photos, of their `train` split; each caption weighs the same.
        by: `things` adds a detector of each of `vlm.data.things.THINGS`, fitted to the captions;
            `classes` adds the 1,000 ImageNet classes of EfficientNet-Lite0's own classifier.

    Raises:
        CheckpointError: the projector is no MLP, or its hidden layer does not see the features of
            the classifier.
        DataError: captions that cannot be read or name nothing.
        ImageError: a photo cannot be read.
        WeightsError: the classifier's weights are not installed.
    """
    old = model.projector.projection
    if not isinstance(old, MLP):
        raise CheckpointError("only an MLP projector has a hidden layer to widen")
    photos = [photo for file in files for photo in read_captions(file, "train")]
    weight, bias = (detectors if by == "things" else classes)(model, photos)
    hidden = old.linear_1.out_features
    config = replace(model.config.projector, hidden=hidden + len(weight))
    result = vlm.build(replace(model.config, projector=config))
    state = model.state_dict()
    kept = {name for name in model.trained if not name.startswith("projector.projection.")}
    result.load_state_dict({name: state[name] for name in kept}, strict=False)
    new = result.projector.projection
    with torch.no_grad():
        new.linear_1.weight[:hidden] = old.linear_1.weight
        new.linear_1.bias[:hidden] = old.linear_1.bias
        new.linear_1.weight[hidden:] = GAIN * weight
        new.linear_1.bias[hidden:] = GAIN * (bias - THRESHOLD[by])
        new.linear_2.weight[:, :hidden] = old.linear_2.weight
        new.linear_2.weight[:, hidden:] = 0
        new.linear_2.bias.copy_(old.linear_2.bias)
    return result


def detectors(
    model: vlm.VisionLanguageModel, photos: list[CaptionedPhoto]
) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,) that tell the things in a photo from what enters the projector's
    hidden layer: a linear probe, fitted to captions.

    Raises:
        DataError: captions that name nothing.
        ImageError: a photo cannot be read.
    """
    photos, shares = photos_with_things(photos)
    front = nn.Sequential(model.projector.reduction, model.projector.norm)
    images = [photo.image for photo in photos]
    features = mean_tokens(model.vision, images, "learning things", front)
    captions = torch.tensor([float(len(photo.captions)) for photo in photos])
    probe = fit_detectors(features, shares, captions)
    weight = (probe.weight / probe.deviation[:, None]).T
    return weight, probe.bias - weight @ probe.mean


def classes(model: vlm.VisionLanguageModel, photos: list[CaptionedPhoto]) -> tuple[Tensor, Tensor]:
    """Weight (1000, 1280) and bias (1000,) of EfficientNet-Lite0's own classifier, for what enters
    the projector's hidden layer.

    The projector's LayerNorm takes each patch token's mean and deviation away. Those of an average
    token stand for them: on COCO photos, the likeliest class stays the same for three in four.

    Raises:
        CheckpointError: a tower or a reduction in front of the hidden layer that changes the
            features.
        ImageError: a photo cannot be read.
        WeightsError: the classifier's weights are not installed.
    """
    norm = model.projector.norm
    reduced = not isinstance(model.projector.reduction, nn.Identity)
    if not isinstance(model.vision, EfficientNetTower) or reduced:
        raise CheckpointError(
            "the classifier reads the patch tokens of efficientnet-lite0: --by classes needs that "
            "tower and projector.reduce=none"
        )
    network = imagenet_network()
    weight, bias = network._fc.weight.detach(), network._fc.bias.detach()
    if isinstance(norm, nn.Identity):
        return weight, bias
    images = [photo.image for photo in photos]
    mean, deviation = mean_tokens(model.vision, images, "measuring", mean_and_deviation).mean(dim=0)
    bias = bias + mean * weight.sum(dim=1)
    weight = deviation * weight / norm.weight.detach()
    return weight, bias - weight @ norm.bias.detach()


def mean_and_deviation(tokens: Tensor) -> Tensor:
    """Of each token over its features: (B, N, D) -> (B, N, 2)."""
    return torch.stack([tokens.mean(dim=-1), tokens.std(dim=-1, correction=0)], dim=-1)


def main(
    checkpoint: str,
    output: Path,
    captions: list[str],
    by: Literal["things", "classes"] = "things",
) -> None:
    """Add hidden units that know things to an MLP projector.

    Args:
        checkpoint: whose projector is widened; it is not changed. `fresh` is an untrained MLP
            behind a LayerNorm, of the embedded model's parts.
        output: folder of the new checkpoint.
        captions: captions files of photos like those that it will see.
        by: `things` adds a detector of each everyday thing, fitted to the captions; `classes` adds
            the classes of EfficientNet-Lite0's own classifier, the photos telling their scale.

    Raises:
        CheckpointError: something is in the output folder, or as `widen`.
        DataError, ImageError, WeightsError: as `widen`.
    """
    require_new(output)
    if checkpoint == "fresh":
        torch.manual_seed(0)
        model = vlm.build(ModelConfig(projector=ProjectorConfig(input_norm=True)), device="cpu")
    else:
        model = vlm.load(checkpoint, device="cpu", dtype=torch.float32)
    widen(model, [Path(file) for file in captions], by).save(output)
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    console.print(f"vlm chat PHOTO --model {output}: talks to it")


if __name__ == "__main__":
    raise SystemExit(cli.main(command=partial(cli.run, "python -m train.embedded.widen", main)))
