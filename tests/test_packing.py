"""Packing: one copy of the image tokens gives the loss and gradients of separate sequences."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from train.packing import block_mask, pack, shared_length
from vlm.batch import collate
from vlm.errors import PromptError
from vlm.model import VisionLanguageModel
from vlm.prompt import Prompt

CAT, DOGS, GRASS = "A cat sits on the grass.", "Two dogs run.", "A cat sits on the beach."
WHAT, DESCRIBE = "What is in the picture?", "Describe the image."


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    return tiny.vision_language_model()


def conversation(model: VisionLanguageModel, photo: int, question: str, answer: str) -> Prompt:
    image = {"type": "image", "image": tiny.photo(photo)}
    content = [image, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
    return model.prompt(messages, answer_next=False)


@pytest.mark.parametrize(
    "rows",
    [
        [[(WHAT, CAT)]],
        [[(WHAT, CAT), (WHAT, DOGS)]],
        [[(WHAT, CAT), (WHAT, GRASS), (WHAT, "A cat."), (WHAT, CAT), (WHAT, "A")]],
        [[(WHAT, CAT), (DESCRIBE, DOGS), (WHAT, DOGS)]],
        [[(WHAT, CAT)], [(DESCRIBE, DOGS), (DESCRIBE, GRASS), (WHAT, CAT)], [(WHAT, "")]],
    ],
    ids=["one caption", "two", "shared first words", "other questions", "rows of other length"],
)
def test_packed_equals_separate(
    model: VisionLanguageModel, rows: list[list[tuple[str, str]]]
) -> None:
    prompts = [[conversation(model, i, *pair) for pair in row] for i, row in enumerate(rows)]
    patch_tokens = model.encode_images([row[0].images[0] for row in prompts])
    parameters = list(model.projector.parameters())

    separate = sum(
        model(collate([prompt], patch_tokens[number, None]))
        for number, row in enumerate(prompts)
        for prompt in row
    )
    expected = torch.autograd.grad(separate, parameters)
    packed = model(pack(prompts, patch_tokens))
    torch.testing.assert_close(packed, separate, rtol=1e-5, atol=0)
    for gradient, other in zip(torch.autograd.grad(packed, parameters), expected, strict=True):
        assert (gradient - other).norm() <= 1e-4 * other.norm()


def test_the_image_is_there_once(model: VisionLanguageModel) -> None:
    prompts = [conversation(model, 0, WHAT, caption) for caption in (CAT, DOGS)]
    batch = pack([prompts], model.encode_images(prompts[0].images))
    assert batch.images_per_row == (1,)
    own = sum(len(prompt) - shared_length(prompts) for prompt in prompts)
    assert batch.input_ids.shape == (1, shared_length(prompts) + own)


def test_block_mask_by_hand() -> None:
    seen = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    mask = block_mask(torch.tensor([[0, 0, 1, 2, 2, -1]]))
    assert mask.dtype == torch.bool
    assert mask.int().tolist() == [[seen]]


@given(segments=st.lists(st.integers(-1, 3), min_size=1, max_size=8))
def test_block_mask_is_the_naive_loop(segments: list[int]) -> None:
    mask = block_mask(torch.tensor([segments]))[0, 0].tolist()
    for row, at in enumerate(segments):
        for column, seen in enumerate(segments):
            looks_back = column < row and at != -1 and seen in (0, at)
            assert mask[row][column] == (column == row or looks_back)


@st.composite
def prompts_alike(draw: st.DrawFn) -> list[Prompt]:
    start = draw(st.lists(st.integers(0, 2), min_size=1, max_size=4))
    prompts = []
    for end in draw(st.lists(st.lists(st.integers(0, 2), max_size=4), min_size=1, max_size=4)):
        ids = start + end
        flags = draw(st.lists(st.booleans(), min_size=len(ids) - 1, max_size=len(ids) - 1))
        prompts.append(Prompt(ids, [False, *flags], [], []))
    return prompts


@given(prompts=prompts_alike())
def test_the_common_part_is_the_longest_without_a_supervised_token(prompts: list[Prompt]) -> None:
    def common(length: int) -> bool:
        starts = {tuple(prompt.input_ids[:length]) for prompt in prompts}
        supervised = any(any(prompt.loss_mask[:length]) for prompt in prompts)
        return len(starts) == 1 and not supervised and length <= min(map(len, prompts))

    shared = shared_length(prompts)
    assert common(shared)
    assert not common(shared + 1)


def test_images_behind_the_common_part_are_refused(model: VisionLanguageModel) -> None:
    image = {"type": "image", "image": tiny.photo()}
    late = [
        model.prompt([{"role": "user", "content": [{"type": "text", "text": text}, image]}])
        for text in (WHAT, DESCRIBE)
    ]
    with pytest.raises(PromptError, match="must begin with the same images"):
        pack([late], model.encode_images([tiny.photo()]))


def test_different_images_in_one_row_are_refused(model: VisionLanguageModel) -> None:
    row = [conversation(model, photo, WHAT, CAT) for photo in (0, 1)]
    with pytest.raises(PromptError, match="must begin with the same images"):
        pack([row], model.encode_images([tiny.photo()]))
