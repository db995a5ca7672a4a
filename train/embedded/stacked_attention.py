"""Stacked attention (Yang et al. 2016): a small network that answers a question about a photo, or
the question alone, with one of a fixed set of answers. It trains in minutes on a CPU."""

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

PADDING = 0
UNKNOWN = 1
"""Word ids that no word has; words begin at 2."""

WORD_WIDTH = 200
WIDTH = 256
LOOKS = 2
DROPOUT = 0.5
EPOCHS = 9
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-3
CLIP = 5.0


class StackedAttention(nn.Module):
    """A GRU reads the question, whose last state looks at the patch tokens twice, each time with
    what it saw before added to it; a linear layer says the answer.

    Args:
        words: number of word ids, with those of `PADDING` and `UNKNOWN`.
        answers: C, how many answers there are.
        patches: N, D of the photos' patch tokens; None for a network that sees no photo.
    """

    def __init__(self, words: int, answers: int, patches: tuple[int, int] | None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, WORD_WIDTH, padding_idx=PADDING)
        self.reader = nn.GRU(WORD_WIDTH, WIDTH, batch_first=True)
        self.answer = nn.Linear(WIDTH, answers)
        self.dropout = nn.Dropout(DROPOUT)
        self.sees = patches is not None
        if patches is not None:
            count, width = patches
            self.seen = nn.Linear(width, WIDTH)
            self.places = nn.Parameter(0.02 * torch.randn(count, WIDTH))
            self.keys = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LOOKS))
            self.queries = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(LOOKS))
            self.scores = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(LOOKS))

    def forward(self, questions: Tensor, patch_tokens: Tensor) -> Tensor:
        """Logits of the answers, (B, C).

        Args:
            questions: word ids (B, L), int64, padded behind with `PADDING`; each has a word.
            patch_tokens: (B, N, D), float32; passed over by a network that sees no photo.
        """
        ends = (questions != PADDING).sum(dim=1) - 1
        states, _ = self.reader(self.dropout(self.embedding(questions)))
        query = states[torch.arange(len(questions)), ends]
        if self.sees:
            values = torch.tanh(
                self.seen(self.dropout(F.layer_norm(patch_tokens, patch_tokens.shape[-1:])))
            )
            for key, of_query, score in zip(self.keys, self.queries, self.scores, strict=True):
                both = torch.tanh(key(values + self.places) + of_query(query)[:, None])
                query = query + (score(self.dropout(both)).softmax(dim=1) * values).sum(dim=1)
        return self.answer(self.dropout(query))


def fit(
    network: StackedAttention,
    questions: Tensor,
    patch_tokens: Tensor,
    photos: Tensor,
    answers: Tensor,
) -> None:
    """Trains a network with cross-entropy, and leaves it in eval mode.

    Args:
        network: fresh; batches and dropout come from the global generator.
        questions: word ids (Q, L), int64.
        patch_tokens: of all photos, (P, N, D).
        photos: the photo of each question, (Q,), int64.
        answers: its answer, (Q,), int64.
    """
    batches = max(1, len(questions) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=EPOCHS * batches, pct_start=0.1
    )
    network.train()
    for _ in track(range(EPOCHS), "teaching", console=Console(stderr=True)):
        for batch in torch.randperm(len(questions))[: batches * BATCH_SIZE].split(BATCH_SIZE):
            logits = network(questions[batch], patch_tokens[photos[batch]].float())
            optimizer.zero_grad()
            F.cross_entropy(logits, answers[batch]).backward()
            nn.utils.clip_grad_norm_(network.parameters(), CLIP)
            optimizer.step()
            schedule.step()
    network.eval()


def fit_several(
    count: int, questions: Tensor, patch_tokens: Tensor, photos: Tensor, answers: Tensor
) -> list[StackedAttention]:
    """Trained networks, every other one of which sees no photo; of the rest, see `fit`."""
    words, known = int(questions.max()) + 1, int(answers.max()) + 1
    networks = []
    for number in range(count):
        patches = None if number % 2 else tuple(patch_tokens.shape[1:])
        network = StackedAttention(words, known, patches)
        fit(network, questions, patch_tokens, photos, answers)
        networks.append(network)
    return networks


@torch.no_grad()
def probabilities(
    networks: list[StackedAttention], questions: Tensor, patch_tokens: Tensor, photos: Tensor
) -> Tensor:
    """The mean of what several networks hold the probability of each answer to be, (Q, C)."""
    told = []
    starts = range(0, len(questions), BATCH_SIZE)
    for start in track(starts, "answering", console=Console(stderr=True)):
        batch = slice(start, start + BATCH_SIZE)
        tokens = patch_tokens[photos[batch]].float()
        each = [network(questions[batch], tokens).softmax(dim=1) for network in networks]
        told.append(torch.stack(each).mean(dim=0))
    return torch.cat(told)
