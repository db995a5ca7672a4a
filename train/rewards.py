"""Self-critical sequence training (Rennie et al. 2017): learning from captions of one's own.

Cross-entropy teaches each next word behind a human's words; what is scored in the end is a whole
caption behind one's own. Here the model draws several captions of a photo, each is rewarded by its
CIDEr, and each becomes more probable by as much as it is better than the others of that photo (less
probable if it is worse; the others' mean as the baseline: Luo 2020).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

import torch
from accelerate import Accelerator
from torch import Tensor

from train.batch import Batch
from train.cider import Cider
from train.loader import Loaded, Prepared
from train.packing import pack
from vlm.data.sample import Samples
from vlm.errors import ConfigError
from vlm.model import VisionLanguageModel
from vlm.prefill import prefill
from vlm.prompt import Prompt
from vlm.splice import pad

DRAWS = 5
"""Captions drawn of each photo: their mean is the baseline, and all share its image tokens."""

LENGTH = 40
"""Tokens of a drawn caption, at most."""


def self_critical(
    model: VisionLanguageModel, accelerator: Accelerator, sources: list[Samples]
) -> "SelfCritical | None":
    """What draws the captions of the sources that ask for it; None if none does."""
    asked = [found.usable for found in sources if found.source.self_critical]
    if asked and model.vision.tiles:
        raise ConfigError(
            "self_critical draws captions of whole photos: leave out model.vision.tiles"
        )

    def captions() -> Iterator[list[str]]:
        for sample in chain(*asked):
            if not sample.questions or len(sample.photos) > 1:
                what = f"self_critical needs captions of a photo: {sample.where} has none"
                raise ConfigError(what)
            yield sample.texts()

    return SelfCritical(model, accelerator, captions()) if asked else None


class SelfCritical:
    """Draws captions and weighs them; `captions` are those of each photo of the training set."""

    def __init__(
        self,
        model: VisionLanguageModel,
        accelerator: Accelerator,
        captions: Iterable[Sequence[str]],
    ) -> None:
        self.model, self.accelerator = model, accelerator
        self.cider = Cider(captions)

    def __call__(self, together: list[Prepared]) -> tuple[list[Batch], float | None]:
        """The batches of a step, first those that need no captions drawn; and the mean reward of
        the captions in the others, over all processes, None if there are none. Call it where the
        model is ready to decode.
        """
        given = [p.batch for p in together if len(p.batch.target_ids) or not p.drawn]
        photos = [p.drawn for p in together if p.drawn]
        drawn, rewards = self.draw_batches(photos) if photos else ([], [])
        sums = torch.tensor([sum(rewards), len(rewards)], dtype=torch.float32)
        sums = self.accelerator.reduce(sums.to(self.accelerator.device), "sum")
        rewarded, count = sums.tolist()
        return given + drawn, rewarded / count if count else None

    def draw_batches(self, batches: list[list[Loaded]]) -> tuple[list[Batch], list[float]]:
        """Photos -> the batches to learn from, and the reward of each caption in them.

        Draws for all batches at once, from torch's global random numbers.
        """
        photos = [photo for batch in batches for photo in batch]
        drawn = draw(self.model, photos)
        rewards = [self.rewards(*pair) for pair in zip(photos, drawn, strict=True)]
        worth = torch.tensor([advantages(of_photo) for of_photo in rewards])
        # One size whatever the reward's: beside it, other samples weigh 1.
        worth /= worth.square().mean().sqrt().clamp(min=1e-6)
        made = iter(zip(photos, drawn, worth.tolist(), strict=True))
        learned = [weighed([next(made) for _ in batch]) for batch in batches]
        return learned, [reward for of_photo in rewards for reward in of_photo]

    def rewards(self, photo: Loaded, answers: list[list[int]]) -> list[float]:
        """The CIDEr of each caption of a photo."""
        texts = self.model.language.tokenizer.batch_decode(answers, skip_special_tokens=True)
        ends = self.model.language.end_ids()
        return [
            self.cider(text, photo.references, ended=answer[-1] in ends)
            for text, answer in zip(texts, answers, strict=True)
        ]


def weighed(photos: list[tuple[Loaded, list[list[int]], list[float]]]) -> Batch:
    """Photos, their drawn captions and what each caption counts -> one batch."""
    groups, weights = [], []
    for photo, answers, worth in photos:
        asked = question(photo)
        groups.append([answered(asked, answer) for answer in answers])
        weights += [w for answer, w in zip(answers, worth, strict=True) for _ in answer]
    batch = pack(groups, torch.stack([photo.images[0] for photo, _, _ in photos]))
    return replace(batch, target_weights=torch.tensor(weights))


def advantages(rewards: list[float]) -> list[float]:
    """By how much each is above the mean of the others."""
    others = len(rewards) - 1
    return [reward - (sum(rewards) - reward) / others for reward in rewards]


def question(photo: Loaded) -> Prompt:
    """Photo and question, ready for an answer."""
    prompt = photo.prompts[0]
    asked = prompt.loss_mask.index(True)
    return replace(prompt, input_ids=prompt.input_ids[:asked], loss_mask=prompt.loss_mask[:asked])


def answered(question: Prompt, answer: list[int]) -> Prompt:
    """The conversation with the answer that was drawn, all of it supervised."""
    ids, mask = question.input_ids + answer, question.loss_mask + [True] * len(answer)
    return replace(question, input_ids=ids, loss_mask=mask)


@torch.inference_mode()
def draw(model: VisionLanguageModel, photos: list[Loaded]) -> list[list[list[int]]]:
    """For each photo the token ids of `DRAWS` captions as the model's own probabilities have them;
    the last token ends one, if it is not cut off at `LENGTH`."""
    images = torch.stack([photo.images[0] for photo in photos]).to(model.device)
    image_tokens = model.project(model.vision(images) if images.ndim == 4 else images)
    input_ids, mask = pad([question(photo).input_ids for photo in photos], side="left")
    embeddings = model.embed(input_ids.to(model.device), list(image_tokens))
    start = prefill(model.language, embeddings, mask.to(model.device))
    start = start.select(torch.arange(len(photos), device=model.device).repeat_interleave(DRAWS))
    ends = model.language.end_ids()
    answers: list[list[int]] = [[] for _ in range(len(photos) * DRAWS)]
    unfinished = list(range(len(answers)))
    while True:
        drawn = sample(start.logits)
        ids = drawn[:, 0].tolist()
        for row, token in zip(unfinished, ids, strict=True):
            answers[row].append(token)
        going = [place for place, token in enumerate(ids) if token not in ends]
        if not going or len(answers[unfinished[going[0]]]) == LENGTH:
            return [answers[first : first + DRAWS] for first in range(0, len(answers), DRAWS)]
        if len(going) < len(unfinished):
            unfinished = [unfinished[place] for place in going]
            places = torch.tensor(going, device=model.device)
            start, drawn = start.select(places), drawn[places]
        start = start.extend(model.language, drawn)


def sample(logits: Tensor) -> Tensor:
    """One token of each row, by its probability: logits (R, V), float32 -> (R, 1)."""
    # One random number a row; torch.multinomial draws one for each token of the vocabulary, which
    # on a CPU takes as long as the layers do.
    reached = logits.softmax(dim=-1).cumsum(dim=-1)
    point = torch.rand(len(logits), 1, device=logits.device) * reached[:, -1:]
    return torch.searchsorted(reached, point, right=True)
