"""Our model class for lmms-eval: a task of its own shape, answers as without it.

Where lmms-eval is not installed, a stand-in with the interface of its 0.7 takes its place: abstract
methods, and what a request holds.
"""

import abc
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest
import torch

import vlm
from tests import tiny
from vlm.errors import DataError


@dataclass
class Instance:
    """What lmms-eval calls a request."""

    request_type: str
    arguments: tuple[Any, ...]
    idx: int
    metadata: dict[str, Any]

    @property
    def args(self) -> tuple[Any, ...]:
        return self.arguments


class Base(abc.ABC):
    """What lmms-eval calls a model."""

    is_simple = True

    def __init__(self) -> None:
        self._rank, self._world_size = 0, 1
        self.task_dict: dict[str, Any] = {}
        self.cached: list[Any] = []
        self.cache_hook = self

    def add_partial(self, kind: str, request: Any, answer: Any) -> None:
        self.cached.append((kind, request, answer))

    @abc.abstractmethod
    def loglikelihood(self, requests: list[Any]) -> list[Any]: ...

    @abc.abstractmethod
    def generate_until(self, requests: list[Any]) -> list[str]: ...

    @abc.abstractmethod
    def generate_until_multi_round(self, requests: list[Any]) -> list[str]: ...


@pytest.fixture(scope="module")
def model() -> vlm.VisionLanguageModel:
    return tiny.vision_language_model()


@pytest.fixture
def adapter(
    model: vlm.VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Any]]:
    """The class, about to load the tiny model; its task has a photo a document."""
    if find_spec("lmms_eval") is None:
        for name in ("lmms_eval", "lmms_eval.api"):
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
        for name, members in (
            ("lmms_eval.api.instance", {"Instance": Instance}),
            ("lmms_eval.api.model", {"lmms": Base}),
        ):
            module = ModuleType(name)
            vars(module).update(members)
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(vlm, "load", lambda *_, **__: model)

    def make(**settings: Any) -> Any:
        made = importlib.import_module("eval.lmms").VLM(**settings)
        made.task_dict = {"stub": {"test": [{"photos": [tiny.photo(n)]} for n in range(5)]}}
        return made

    yield make
    sys.modules.pop("eval.lmms", None)


def request(
    text: str,
    number: int,
    settings: Any,
    see: Callable[[Any], list[Any]] | None = lambda document: document["photos"],
) -> Any:
    kind = importlib.import_module("lmms_eval.api.instance").Instance
    metadata = {"task": "stub", "doc_id": number, "repeats": 1}
    arguments = (text, settings, see, number, "stub", "test")
    return kind("generate_until", arguments, number, metadata)


def test_answers_are_those_of_the_model(
    adapter: Callable[..., Any], model: vlm.VisionLanguageModel
) -> None:
    made = adapter(batch_size="2", device="cpu", use_cache=True)
    texts = ["What?", "What is in the picture?", "A cat?", "Describe the image.", "Who?"]
    requests = [request(text, n, {"max_new_tokens": 6}) for n, text in enumerate(texts)]
    expected = [model.chat(text, tiny.photo(n), max_tokens=6) for n, text in enumerate(texts)]
    assert made.generate_until(requests) == expected


def test_a_task_decides_how_an_answer_ends(
    adapter: Callable[..., Any], model: vlm.VisionLanguageModel
) -> None:
    made = adapter()
    whole = model.chat("What?", tiny.photo(0), max_tokens=8)
    stop = whole[2:4]
    requests = [
        request("What?", 0, {"max_new_tokens": 8, "until": [stop]}),
        request("What?", 0, {"max_new_tokens": 8, "until": stop, "num_beams": 1}),
        request("What?", 0, {"max_new_tokens": 3, "temperature": 0}),
        request("What?", 0, {"max_new_tokens": 3, "num_beams": 3}),
    ]
    assert made.generate_until(requests) == [
        whole[: whole.index(stop)],
        whole[: whole.index(stop)],
        model.chat("What?", tiny.photo(0), max_tokens=3),
        model.chat("What?", tiny.photo(0), max_tokens=3, beams=3),
    ]


def test_images_stand_where_the_text_has_them(adapter: Callable[..., Any]) -> None:
    made = adapter()
    both = [tiny.photo(1), [tiny.photo(2)]]
    for text, kinds in (
        ("<image>What is <image>?", ["image", "What is ", "image", "?"]),
        ("What?", ["image", "image", "What?"]),
        ("One <image>?", ["image", "image", "One <image>?"]),
    ):
        (turn,) = made.first_turn(request(text, 0, {}, lambda _: both))
        assert [part.get("text", "image") for part in turn["content"]] == kinds
    (turn,) = made.first_turn(request("What?", 0, {}, None))
    assert turn["content"] == [{"type": "text", "text": "What?"}]
    with pytest.raises(DataError, match="this task shows str: vlm sees images only"):
        made.first_turn(request("What?", 0, {}, lambda _: ["video.mp4"]))


def test_the_likelihood_is_that_of_the_continuation(
    adapter: Callable[..., Any], model: vlm.VisionLanguageModel
) -> None:
    made = adapter()
    results = made.loglikelihood(
        [
            request("What?", 0, "A cat"),
            request("What?", 0, lambda document: "A cat" if document["photos"] else ""),
        ]
    )
    assert results[0] == results[1]
    talk = made.first_turn(request("What?", 0, {}))
    expected = 0.0
    sequence = model.language.tokenizer("A cat", add_special_tokens=False)["input_ids"]
    prompt = model.prompt(talk)
    embeddings, _ = model._embed_prompts([prompt])
    for token in sequence:
        last = model.language(embeddings)[0, -1].float().log_softmax(dim=-1)
        expected += last[token].item()
        embeddings = torch.cat([embeddings, model.language.embed(torch.tensor([[token]]))], dim=1)
    assert results[0][0] == pytest.approx(expected, rel=1e-4)
    assert results[0][1] is False


def test_a_task_of_several_rounds_says_what_comes_next(
    adapter: Callable[..., Any], model: vlm.VisionLanguageModel
) -> None:
    made = adapter()
    heard = []

    def ask(
        document: Any, previous_output: list[str], round_idx: int, previous_round_info: Any
    ) -> tuple[Any, ...]:
        heard.append((list(previous_output), round_idx, previous_round_info))
        text = f"And {len(previous_output[-1])}?"
        return document["photos"], text, round_idx == 3, tuple(previous_output), f"info {round_idx}"

    first = request("What?", 2, {"max_new_tokens": 5, "until": ["never"]})
    text, settings, see, *where = first.args
    first.arguments = (text, settings, see, ask, *where)
    one = model.chat("What?", tiny.photo(2), max_tokens=5)
    two = model.chat(f"And {len(one)}?", tiny.photo(2), max_tokens=5)
    three = model.chat(f"And {len(two)}?", tiny.photo(2), max_tokens=5)
    assert made.generate_until_multi_round([first, first]) == [[one, two, three]] * 2
    assert heard[:3] == [
        ([one], 1, None),
        ([one, two], 2, "info 1"),
        ([one, two, three], 3, "info 2"),
    ]
