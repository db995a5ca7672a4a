"""Self-critical sequence training (Rennie et al. 2017): learning from captions of one's own.

Cross-entropy teaches each next word behind a human's words; what is scored in the end is a whole
caption behind one's own. Here the model draws several captions of a photo, each is rewarded by its
CIDEr, and each becomes more probable by as much as it is better than the others of that photo (less
probable if it is worse; the others' mean as the baseline: Luo 2020).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from train.cider import Cider
from train.packing import pack
from vlm.batch import Batch, pad
from vlm.model import VisionLanguageModel
from vlm.prefill import prefill
from vlm.prompt import Prompt

DRAWS = 5
"""Captions drawn of each photo: their mean is the baseline, and all share its image tokens."""

LENGTH = 40
"""Tokens of a drawn caption, at most."""


@dataclass(frozen=True)
class Draft:
    """A photo of which captions are still to be drawn.

    Attributes:
        prompt: photo and question, ready for the answer.
        image: what the model takes: (3, H, W) or (N, D).
        references: captions by people.
    """

    prompt: Prompt
    image: Tensor
    references: list[str]


def draft(prompt: Prompt, image: Tensor, references: list[str]) -> Draft:
    """A photo with one of its captions -> the same without it.

    Args:
        prompt: a whole conversation of one question and one answer.
        image: see `Draft`.
        references: likewise.
    """
    asked = prompt.loss_mask.index(True)
    question = replace(
        prompt, input_ids=prompt.input_ids[:asked], loss_mask=prompt.loss_mask[:asked]
    )
    return Draft(question, image, references)


class SelfCritical:
    """Draws captions and weighs them.

    Args:
        model: that draws, and is to learn from it.
        captions: those of each photo of the training set, see `Cider`.
    """

    def __init__(self, model: VisionLanguageModel, captions: Iterable[Sequence[str]]) -> None:
        self.model = model
        self.cider = Cider(captions)

    def __call__(self, drafts: list[Draft]) -> tuple[Batch, float]:
        """Photos -> the batch to learn from, and the sum of the rewards of the captions in it.

        Draws from torch's global random numbers. Call it where the model is ready to decode.
        """
        images = torch.stack([each.image for each in drafts]).to(self.model.device)
        ends = self.model.end_ids()
        tokenizer = self.model.language.tokenizer
        groups, weights, rewarded = [], [], 0.0
        drawn = draw(self.model, [each.prompt for each in drafts], images)
        for each, answers in zip(drafts, drawn, strict=True):
            texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
            rewards = [
                self.cider(text, each.references, ended=answer[-1] in ends)
                for text, answer in zip(texts, answers, strict=True)
            ]
            groups.append([answered(each.prompt, answer) for answer in answers])
            for answer, advantage in zip(answers, advantages(rewards), strict=True):
                weights += [advantage] * len(answer)
            rewarded += sum(rewards)
        batch = pack(groups, images)
        return replace(batch, target_weights=torch.tensor(weights)), rewarded


def advantages(rewards: list[float]) -> list[float]:
    """By how much each is above the mean of the others."""
    others = len(rewards) - 1
    return [reward - (sum(rewards) - reward) / others for reward in rewards]


def answered(question: Prompt, answer: list[int]) -> Prompt:
    """The conversation with the answer that was drawn, all of it supervised."""
    ids, mask = question.input_ids + answer, question.loss_mask + [True] * len(answer)
    return replace(question, input_ids=ids, loss_mask=mask)


@torch.inference_mode()
def draw(
    model: VisionLanguageModel, questions: list[Prompt], images: Tensor
) -> list[list[list[int]]]:
    """Captions as the model's own probabilities have them.

    Args:
        model: that draws.
        questions: one photo each.
        images: theirs, (I, 3, H, W) or (I, N, D).

    Returns:
        For each photo the token ids of `DRAWS` captions; the last one ends it, if it is not cut off
        at `LENGTH`.
    """
    ends = torch.tensor(sorted(model.end_ids()), device=model.device)
    image_tokens = model.project(model.vision(images) if images.ndim == 4 else images)
    input_ids, mask = pad([question.input_ids for question in questions], value=0, side="left")
    embeddings = model.embed(input_ids.to(model.device), list(image_tokens))
    start = prefill(model.language, embeddings, mask.to(model.device))
    start = start.select(torch.arange(len(questions), device=model.device).repeat_interleave(DRAWS))
    drawn: list[Tensor] = []
    ended = torch.zeros(len(questions) * DRAWS, dtype=torch.bool, device=model.device)
    while len(drawn) < LENGTH and not ended.all():
        if drawn:
            start = start.extend(model.language, drawn[-1])
        drawn.append(torch.multinomial(start.logits.softmax(dim=-1), 1))
        ended |= torch.isin(drawn[-1][:, 0], ends)
    rows = torch.cat(drawn, dim=1)
    # Up to its first end, or all of it; what was drawn behind that belongs to nobody.
    lengths = (torch.isin(rows, ends).cumsum(dim=1) == 0).sum(dim=1) + 1
    answers = [row[:length] for row, length in zip(rows.tolist(), lengths.tolist(), strict=True)]
    return [answers[first : first + DRAWS] for first in range(0, len(answers), DRAWS)]
