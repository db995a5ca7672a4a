"""Widen the hidden layer of an MLP projector by detectors of everyday things.

Training through a language model finds the features that tell a giraffe from a horse slowly; a
linear probe on the same patch tokens finds them in seconds. Each of its classes becomes one hidden
unit. The output weights of these units start at zero: the model is at first the same function, and
training has only to learn what each detector means to the language model."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import vlm
from train.probe import fit_detectors, mean_tokens, photos_with_things
from vlm.captions import read_captions
from vlm.checkpoint import build
from vlm.errors import CheckpointError
from vlm.projector import MLP

GAIN = 160.0
"""Of the detectors: with large activations, small output weights already matter. With 20, a hundred
steps moved the naming test little; with 160, sixty more took it from 29% to 37%."""

BASE = 4.0
"""Added to the detectors' logits: a detector is silent only where less speaks for its thing than
for one of 77 by chance. At 0 it would speak only where its thing is more likely there than not."""


def widen(model: vlm.VisionLanguageModel, files: list[Path]) -> vlm.VisionLanguageModel:
    """A model that gives the same logits and has a detector of each of `vlm.things.THINGS`.

    Args:
        model: with an MLP projector.
        files: captions of photos, of their `train` split; each caption weighs the same.

    Raises:
        CheckpointError: the projector is no MLP.
        DataError: captions that cannot be read or name nothing.
        ImageError: a photo cannot be read.
    """
    old = model.projector.projection
    if not isinstance(old, MLP):
        raise CheckpointError("only an MLP projector has a hidden layer to widen")
    photos, shares = photos_with_things(
        [photo for file in files for photo in read_captions(file, "train")]
    )
    # The probe has to see what the hidden layer sees.
    front = nn.Sequential(model.projector.reduction, model.projector.norm)
    images = [photo.image for photo in photos]
    features = mean_tokens(model.vision, images, "learning things", front)
    weight = torch.tensor([float(len(photo.captions)) for photo in photos])
    probe = fit_detectors(features, shares, weight)

    hidden = old.linear_1.out_features
    wider = hidden + shares.shape[1]
    config = replace(model.config, projector=replace(model.config.projector, hidden=wider))
    result = build(config)
    result.projector.norm.load_state_dict(model.projector.norm.state_dict())
    new = result.projector.projection
    rows = (probe.weight / probe.deviation[:, None]).T
    with torch.no_grad():
        new.linear_1.weight[:hidden] = old.linear_1.weight
        new.linear_1.bias[:hidden] = old.linear_1.bias
        new.linear_1.weight[hidden:] = GAIN * rows
        new.linear_1.bias[hidden:] = GAIN * (probe.bias + BASE - rows @ probe.mean)
        new.linear_2.weight[:, :hidden] = old.linear_2.weight
        new.linear_2.weight[:, hidden:] = 0
        new.linear_2.bias.copy_(old.linear_2.bias)
    return result


def main(checkpoint: Path, output: Path, captions: list[str]) -> None:
    """Add a detector of each everyday thing to the hidden layer of an MLP projector.

    Args:
        checkpoint: whose projector is widened; it is not changed.
        output: folder of the new checkpoint.
        captions: captions files that the detectors are fitted to.
    """
    widen(vlm.load(checkpoint, device="cpu"), [Path(file) for file in captions]).save(output)
