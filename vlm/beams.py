"""Beam search: the most probable answer that a search of a few at a time finds.

It is that of transformers' `generate(num_beams=K)` with its defaults: an answer's score is the mean
log-probability of its tokens, the one that ends it included (Wu et al. 2016, section 7, where alpha
is 1).
"""

import torch
from torch import Tensor

from vlm.prefill import Language, Prefill


@torch.inference_mode()
def beam_search(
    language: Language, start: Prefill, end_ids: set[int], beams: int, max_tokens: int
) -> list[list[int]]:
    """For each of the B prompts that `start` is of, whose cache is used up, the tokens of its best
    answer, the end not among them; `beams` (K) are the beginnings kept for each prompt."""
    rows, vocabulary = start.logits.shape
    device = start.logits.device
    # Before the first token there is one beam, the empty one; from then on K of them.
    sums = torch.zeros(rows, 1, device=device)
    tokens = torch.empty(rows, 1, 0, dtype=torch.long, device=device)
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(rows)]
    searching = [True] * rows
    # So many that K go on even if all ends are among the best.
    count = min(beams * (1 + len(end_ids)), vocabulary)
    ends = torch.tensor(sorted(end_ids), dtype=torch.long, device=device)
    for length in range(1, max_tokens + 1):
        log_probabilities = start.logits.log_softmax(dim=-1).view(rows, -1, vocabulary)
        best, places = (sums[..., None] + log_probabilities).flatten(1).topk(count, dim=1)
        parents, ids = places // vocabulary, places % vocabulary
        longer = torch.cat([take(tokens, parents), ids[..., None]], dim=2)
        ended = torch.isin(ids, ends)
        done = ended if length < max_tokens else torch.ones_like(ended)
        for row, rank in done[:, :beams].nonzero().tolist():
            if searching[row]:
                answer = longer[row, rank, : length - int(ended[row, rank])].tolist()
                finished[row].append((float(best[row, rank]) / length, answer))
        if length == max_tokens:
            break
        going_on = best.masked_fill(ended, -torch.inf).topk(beams, dim=1)
        sums, tokens = going_on.values, take(longer, going_on.indices)
        for row in range(rows):
            scores = sorted((score for score, _ in finished[row]), reverse=True)
            full = len(scores) >= beams
            searching[row] &= not full or float(sums[row, 0]) / length > scores[beams - 1]
        if not any(searching):
            break
        # The cache has a row for each beam of the step before.
        width = start.logits.shape[0] // rows
        offsets = torch.arange(rows, device=device)[:, None] * width
        start = start.select((offsets + parents.gather(1, going_on.indices)).flatten())
        start = start.extend(language, tokens[:, :, -1].reshape(-1, 1))
    return [max(answers, key=lambda answer: answer[0])[1] for answers in finished]


def take(values: Tensor, picks: Tensor) -> Tensor:
    """Values (B, K, t) and numbers of beams (B, C) -> the values of those beams (B, C, t)."""
    return values.gather(1, picks[..., None].expand(-1, -1, values.shape[2]))
