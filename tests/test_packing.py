"""Packing: one copy of the image tokens, and several groups in a row, give the loss and gradients
of separate sequences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests import tiny
from train.batch import collate
from train.loss import target_loss
from train.packing import empty_batch, fill_rows, lay_out, pack, shared_length
from vlm.config import LoraConfig, ProjectorConfig
from vlm.errors import PromptError
from vlm.model import VisionLanguageModel
from vlm.prompt import Prompt

CAT, DOGS, GRASS = "A cat sits on the grass.", "Two dogs run.", "A cat sits on the beach."
WHAT, DESCRIBE = "What is in the picture?", "Describe the image."


@pytest.fixture(params=["sdpa", "eager", "short_rows"])
def model(request: pytest.FixtureRequest) -> VisionLanguageModel:
    model = tiny.vision_language_model()
    model.language.model.set_attn_implementation(request.param)
    return model


def conversation(model: VisionLanguageModel, photos: list[int], *turns: str) -> Prompt:
    """Questions and answers in turn, the first one about photos."""
    images = [{"type": "image", "image": tiny.photo(photo)} for photo in photos]
    messages: list[dict] = [
        {"role": "assistant" if number % 2 else "user", "content": text}
        for number, text in enumerate(turns)
    ]
    messages[0]["content"] = [*images, {"type": "text", "text": turns[0]}]
    return model.prompt(messages, answer_next=False)


def encoded(model: VisionLanguageModel, groups: list[list[Prompt]]) -> Tensor:
    return model.encode_images([image for group in groups for image in group[0].images])


GROUPS = {
    "one caption": [([0], [(WHAT, CAT)])],
    "two captions": [([0], [(WHAT, CAT), (WHAT, DOGS)])],
    "shared first words": [([0], [(WHAT, CAT), (WHAT, GRASS), (WHAT, "A cat."), (WHAT, "A")])],
    "other questions": [([0], [(WHAT, CAT), (DESCRIBE, DOGS), (WHAT, DOGS)])],
    "groups of other length": [
        ([0], [(WHAT, CAT)]),
        ([1], [(DESCRIBE, DOGS), (DESCRIBE, GRASS), (WHAT, CAT)]),
        ([2], [(WHAT, "")]),
    ],
    "several turns, several photos, none": [
        ([0, 1], [(WHAT, CAT, "And?", DOGS)]),
        ([], [(WHAT, "Nothing."), (DESCRIBE, "No.")]),
        ([2], [(DESCRIBE, GRASS, WHAT, CAT, "Two dogs?", "No."), (WHAT, CAT)]),
        ([], [("Two dogs?", "No.")]),
    ],
}


@pytest.mark.parametrize("row_length", [None, 1, 80, 10_000])
@pytest.mark.parametrize("name", GROUPS)
def test_packed_equals_separate(
    model: VisionLanguageModel, name: str, row_length: int | None
) -> None:
    groups = [
        [conversation(model, photos, *turns) for turns in talks] for photos, talks in GROUPS[name]
    ]
    patch_tokens = encoded(model, groups)
    counts = [len(group[0].images) for group in groups]
    model.language.add_lora(LoraConfig(rank=2))
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.1)

    separate = sum(
        model(collate([prompt], tokens), target_loss)
        for group, tokens in zip(groups, patch_tokens.split(counts), strict=True)
        for prompt in group
    )
    expected = torch.autograd.grad(separate, parameters)
    packed = model(pack(groups, patch_tokens, row_length), target_loss)
    torch.testing.assert_close(packed, separate, rtol=1e-5, atol=0)
    for gradient, other in zip(torch.autograd.grad(packed, parameters), expected, strict=True):
        assert (gradient - other).norm() <= 1e-4 * other.norm()


def test_the_image_is_there_once_and_nothing_behind_the_last_prediction() -> None:
    model = tiny.vision_language_model()
    prompts = [conversation(model, [0], WHAT, caption) for caption in (CAT, DOGS)]
    batch = pack([prompts], encoded(model, [prompts]))
    assert batch.images_per_row == (1,)
    # An answer ends with its end of turn, which nothing is predicted from, and a newline.
    own = sum(len(prompt) - 2 - shared_length(prompts) for prompt in prompts)
    assert batch.input_ids.shape == (1, shared_length(prompts) + own)
    assert len(lay_out(prompts)[0]) == shared_length(prompts) + own


def test_groups_in_a_row_by_hand() -> None:
    image = Prompt([1, -200, 5, 3], [False, False, True, False], [range(1, 2)], ["a"])
    answer = [False, False, True, True, True, False]
    other = Prompt([1, -200, 6, 7, 2, 3], answer, [range(1, 2)], ["a"])
    text = Prompt([1, 4, 8, 3], [False, False, True, False], [], [])
    late = Prompt([1, -200, 9], [False] * 3, [range(1, 2)], ["b"])
    images = torch.arange(2.0)[:, None, None]
    batch = pack([[text], [late], [image, other]], images, row_length=7)
    assert batch.input_ids.tolist() == [[1, -200, 6, 7, 1, -200, 9], [1, 4, 0, 0, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 0, 0, 0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1] * 7, [1] * 2 + [0] * 5]
    groups, conversations = batch.blocks.unbind(dim=-1)
    assert groups.tolist() == [[0] * 4 + [1] * 3, [0] * 2 + [-1] * 5]
    assert conversations.tolist() == [[0, 0, 2, 2, 0, 0, 0], [0, 0] + [-1] * 5]
    assert batch.target_rows.tolist() == [0, 0, 0, 0, 1]
    assert batch.target_positions.tolist() == [1, 1, 2, 3, 1]
    assert batch.target_ids.tolist() == [5, 6, 7, 2, 8]
    # The text moved behind the others, and the second image behind the third.
    assert batch.images.flatten().tolist() == [1, 0]
    assert batch.images_per_row == (2, 0)


@st.composite
def alike(draw: st.DrawFn) -> list[Prompt]:
    """Conversations that begin alike; their image takes no token."""
    start = draw(st.lists(st.integers(0, 2), min_size=1, max_size=4))
    images = draw(st.lists(st.integers(0, 9), max_size=2))
    prompts = []
    for end in draw(st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=1, max_size=4)):
        ids = start + end
        flags = draw(st.lists(st.booleans(), min_size=len(ids) - 1, max_size=len(ids) - 1))
        prompts.append(Prompt(ids, [False, *flags], [], images))
    return prompts


@given(groups=st.lists(alike(), min_size=1, max_size=6), row_length=st.integers(1, 30))
def test_every_token_is_trained_once_and_every_image_beside_its_group(
    groups: list[list[Prompt]], row_length: int
) -> None:
    images = torch.tensor([image for group in groups for image in group[0].images])
    batch = pack(groups, images, row_length)

    def context(row: int, position: int) -> tuple[int, ...]:
        """What stands in front of a token: its group's common part and its own conversation."""
        group, own = batch.blocks[row, position].tolist()
        return tuple(
            token
            for token, (g, c) in zip(
                batch.input_ids[row, : position + 1].tolist(),
                batch.blocks[row, : position + 1].tolist(),
                strict=True,
            )
            if g == group and c in (0, own)
        )

    targets = zip(*(t.tolist() for t in (batch.target_rows, batch.target_positions)), strict=True)
    trained = [
        (*context(row, position), token)
        for (row, position), token in zip(targets, batch.target_ids.tolist(), strict=True)
    ]
    supervised = [
        tuple(prompt.input_ids[: at + 1])
        for group in groups
        for prompt in group
        for at, flag in enumerate(prompt.loss_mask)
        if flag
    ]
    assert sorted(trained) == sorted(supervised)

    lengths = sorted(len(lay_out(group)[0]) for group in groups)
    found = []
    for row, numbers in enumerate(batch.blocks[..., 0].tolist()):
        found += [numbers.count(n) for n in set(numbers) - {-1}]
        tokens = len(numbers) - numbers.count(-1)
        assert tokens == batch.attention_mask[row].sum()
        assert tokens <= row_length or set(numbers) <= {0, -1}
        for at, (group, own) in enumerate(batch.blocks[row].tolist()):
            if group >= 0:
                assert batch.position_ids[row, at] == len(context(row, at)) - 1
                assert own >= 0
    assert sorted(found) == lengths
    assert sorted(batch.images.tolist()) == sorted(images.tolist())
    again = pack(groups, images, row_length)
    assert all(torch.equal(value, getattr(again, name)) for name, value in tensors(batch))


def tensors(batch: object) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in vars(batch).items() if isinstance(value, Tensor)]


@given(lengths=st.lists(st.integers(1, 20), max_size=12), row_length=st.integers(1, 20))
def test_rows_are_filled(lengths: list[int], row_length: int) -> None:
    rows = fill_rows(lengths, row_length)
    assert sorted(n for row in rows for n in row) == list(range(len(lengths)))
    totals = [sum(lengths[n] for n in row) for row in rows]
    assert all(
        len(row) == 1 or total <= row_length for row, total in zip(rows, totals, strict=True)
    )
    # No two rows would fit into one: at most twice as many as there must be.
    assert all(a + b > row_length for i, a in enumerate(totals) for b in totals[:i])


def test_first_fit_decreasing_by_hand() -> None:
    assert fill_rows([3, 5, 2, 4, 6, 11], row_length=10) == [[5], [4, 3], [1, 0, 2]]


@given(prompts=alike())
def test_the_common_part_is_the_longest_without_a_supervised_token(prompts: list[Prompt]) -> None:
    def common(length: int) -> bool:
        starts = {tuple(prompt.input_ids[:length]) for prompt in prompts}
        supervised = any(any(prompt.loss_mask[:length]) for prompt in prompts)
        return len(starts) == 1 and not supervised and length <= min(map(len, prompts))

    shared = shared_length(prompts)
    assert common(shared)
    assert not common(shared + 1)


@pytest.mark.parametrize(
    "projector",
    [
        ProjectorConfig(),
        ProjectorConfig(kind="linear"),
        ProjectorConfig(kind="resampler", queries=3, heads=2),
        ProjectorConfig(reduce="shuffle"),
        ProjectorConfig(reduce="pool"),
    ],
)
@pytest.mark.parametrize("text", [True, False])
def test_without_images_or_targets_whatever_trains_has_a_gradient_of_zero(
    projector: ProjectorConfig, text: bool
) -> None:
    """Not None: processes that wait for one another's gradients would wait for ever."""
    model = tiny.vision_language_model(projector)
    model.language.requires_grad_(True)
    for layer in model.vision.last_layers(1):
        layer.requires_grad_(True)
    batches = [empty_batch(torch.zeros(0, model.vision.num_tokens, model.vision.width))]
    batches.append(empty_batch(torch.zeros(0, 3, tiny.IMAGE_SIZE, tiny.IMAGE_SIZE)))
    if text:
        prompt = conversation(model, [], WHAT, CAT)
        batches = [pack([[prompt]], batch.images) for batch in batches]
    for batch in batches:
        model.zero_grad(set_to_none=True)
        loss = model(batch, target_loss)
        assert loss.dtype == torch.float32
        assert (loss.item() > 0) == text
        loss.backward()
        for name, parameter in model.named_parameters():
            if name.startswith("vision.") and batch.images.ndim == 3:
                continue
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert (text and name.startswith("language.")) or not parameter.grad.any(), name


def test_images_that_are_not_those_of_the_common_part_are_refused() -> None:
    model = tiny.vision_language_model()
    image = {"type": "image", "image": tiny.photo()}
    late = [
        model.prompt([{"role": "user", "content": [{"type": "text", "text": text}, image]}])
        for text in (WHAT, DESCRIBE)
    ]
    different = [conversation(model, [photo], WHAT, CAT) for photo in (0, 1)]
    for group in (late, different):
        with pytest.raises(PromptError, match="must begin with the same images"):
            pack([group], model.encode_images([tiny.photo()]))


def test_a_supervised_first_token_is_refused() -> None:
    with pytest.raises(PromptError, match="begins with a supervised token, which nothing predicts"):
        pack([[Prompt([5, 6], [True, True], [], [])]], torch.zeros(0, 1, 1))
