"""A contrastive step of one process or two under DDP: losses and gradients, written to a file.

`torchrun --nproc_per_node 2 -m tests.contrastive_processes FILE`"""

import sys

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from train.contrastive import (
    clip_loss,
    encode_in_chunks,
    gather,
    sigmoid_loss,
    similarities,
)
from train.photo_texts import Known, PhotoTexts
from vlm.data.photos import FilePhoto
from vlm.process_group import leaving_group

PHOTOS = torch.tensor([0, 1, 2, 3, 2, 4])
"""The third and the fifth are the same one."""

TEXTS = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 7, 8, 1])
"""Two of them come twice."""

KNOWN = Known(
    [
        PhotoTexts(FilePhoto(f"{photo}.png"), tuple(map(str, texts)), ())
        for photo, texts in enumerate([(0, 1, 2), (3,), (4, 5, 8), (6, 0, 7), (1,)])
    ]
)
"""Texts by their numbers: of the first and the last photo, one is that of another photo, too."""

PARTS = {
    "clip": {1: [(6, 6)], 2: [(4, 4), (2, 2)]},
    "sigmoid": {1: [(6, 11)], 2: [(4, 8), (2, 3)]},
}
"""By loss and number of processes, how many photos and texts each process has."""


class Contrast(nn.Module):
    """Two tiny encoders and a temperature."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image = nn.Sequential(nn.Linear(7, 16), nn.GELU(), nn.Linear(16, 8))
        self.text = nn.Sequential(nn.Linear(5, 16), nn.GELU(), nn.Linear(16, 8))
        self.logit_scale = nn.Parameter(torch.tensor(1.5))
        self.logit_bias = nn.Parameter(torch.tensor(-2.0))

    def forward(self, kind: str, own_photos: slice, own_texts: slice) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        pixels = torch.randn(len(PHOTOS), 7, generator=generator)[PHOTOS][own_photos]
        words = torch.randn(len(TEXTS), 5, generator=generator)[TEXTS][own_texts]
        photos = gather(encode_in_chunks(self.image, pixels, at_once=2))
        texts = gather(encode_in_chunks(self.text, words, at_once=2))
        keys = gather(PHOTOS[own_photos]).tolist(), gather(TEXTS[own_texts]).tolist()
        numbers = [KNOWN.numbers[str(text)] for text in keys[1]]
        right = KNOWN.right(keys[0], numbers)
        # A bias changes nothing of CLIP's loss, but DDP wants all parameters to take part.
        logits = similarities(photos, texts, self.logit_scale, self.logit_bias)
        return (clip_loss if kind == "clip" else sigmoid_loss)(logits, right)


def gradients(accelerator: Accelerator) -> dict[str, Tensor]:
    """The loss and the gradient of each parameter, for both losses."""
    found = {}
    for kind, parts in PARTS.items():
        model = Contrast()
        network = accelerator.prepare(model)
        sizes, rank = parts[accelerator.num_processes], accelerator.process_index
        own = [slice(sum(n[:rank]), sum(n[: rank + 1])) for n in zip(*sizes, strict=True)]
        loss = network(kind, *own)
        accelerator.backward(loss)
        found[f"{kind} loss"] = loss.detach()
        found |= {f"{kind} {name}": weight.grad for name, weight in model.named_parameters()}
    return found


if __name__ == "__main__":
    with leaving_group():
        accelerator = Accelerator(cpu=True)
        found = gradients(accelerator)
        # The second has its own rows behind others', and fewer of them.
        if accelerator.process_index == 1:
            save_file(found, sys.argv[1])
