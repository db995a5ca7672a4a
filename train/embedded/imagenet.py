"""What EfficientNet-Lite0's own classifier knows: the 1,000 ImageNet classes and their names.

`imagenet_names.json` has, for each class in order of wordnet id, its own name and the everyday word
for it, both with their article.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor

from vlm.data.things import THINGS, named_things
from vlm.efficientnet import imagenet_state
from vlm.preprocess import Preprocessing

# As the network was trained: (x - 127) / 128. With the usual ImageNet mean and standard deviation
# it is right on a tenth fewer photos.
PREPROCESSING = Preprocessing(size=224, resize="crop", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


@dataclass(frozen=True)
class Name:
    """What an ImageNet class is called.

    Args:
        name: the finer name, as in "a tabby cat".
        plain: the everyday word, as in "a cat"; classes may share it.
    """

    name: str
    plain: str


def imagenet_names() -> dict[str, Name]:
    """The names of the 1,000 ImageNet classes by wordnet id, in the order of the classifier."""
    table = json.loads(Path(__file__).with_name("imagenet_names.json").read_text(encoding="utf-8"))
    return {wordnet: Name(**names) for wordnet, names in sorted(table.items())}


def known_things(features: Tensor) -> Tensor:
    """What EfficientNet-Lite0's classifier says of `THINGS`, as logits (B, C): the logarithm of the
    probability of all ImageNet classes that are kinds of a thing, flattened because photos of
    everyday scenes are not ImageNet's.

    Args:
        features: its mean patch tokens (B, 1280).
    """
    places = {thing: place for place, thing in enumerate(THINGS)}
    kinds = torch.zeros(len(imagenet_names()), len(THINGS))
    for number, name in enumerate(imagenet_names().values()):
        for thing in named_things(f"{name.plain}. {name.name}")[:1]:
            kinds[number, places[thing]] = 1
    with torch.inference_mode():
        probabilities = imagenet_network()._fc(features).softmax(dim=-1)
    return 0.6 * torch.log(probabilities @ kinds + 1e-3)


def imagenet_network() -> EfficientNet:
    """EfficientNet-Lite0 with its classifier, in eval mode.

    Raises:
        WeightsError: its weights are not installed.
    """
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(imagenet_state())
    return network.eval()
