"""Our models in lmms-eval (EvolvingLMMs-Lab), for the tasks that it has and we have not:

    pip install lmms-eval
    python -m lmms_eval --model vlm --model_args model=embedded --tasks mmstar

It finds this file by the entry point `lmms_eval.models` of our package.
"""

from collections import defaultdict
from collections.abc import Iterable
from itertools import count
from typing import Any

import torch
from accelerate import PartialState
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image

import vlm
from eval.published import ask_as_published
from vlm.errors import DataError

IMAGE = "<image>"
"""Where a task's text has an image; those without it stand in front."""


class VLM(lmms):
    """A model of this project as lmms-eval's "simple" kind. `device` is lmms-eval's choice; of
    several processes each has its own."""

    is_simple = True

    def __init__(
        self,
        model: str = "embedded",
        batch_size: int | str = 16,
        device: str | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        state = PartialState(cpu=not torch.cuda.is_available())
        self._rank, self._world_size = state.process_index, state.num_processes
        self.batch_size = int(batch_size)
        alone = state.num_processes == 1
        self.model = vlm.load(model, device=(device if alone and device else str(state.device)))
        ask_as_published(self.model, model)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """An answer to each request, cut at the task's stop strings."""
        alike: dict[str, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            alike[repr(generation(request.args[1]))].append(place)
        answers = [""] * len(requests)
        for places in alike.values():
            settings = generation(requests[places[0]].args[1])
            # Rows of like length are padded least.
            places.sort(key=lambda place: -len(requests[place].args[0]))
            pairs = [(None, self.first_turn(requests[place])) for place in places]
            texts = self.model.batch(pairs, batch_size=self.batch_size, **settings)
            for place, text in zip(places, texts, strict=True):
                answers[place] = text
                self.cache_hook.add_partial("generate_until", requests[place].args[:2], text)
        return answers

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """For each request the log-probability of its continuation, and whether greedy decoding
        would give it."""
        results = []
        for request in requests:
            continuation = request.args[1]
            if callable(continuation):
                continuation = continuation(self.document(request))
            talk = [*self.first_turn(request), {"role": "assistant", "content": continuation}]
            prompt = self.model.prompt(talk, answer_next=False)
            # The end of the turn is not the continuation's.
            own = [place for place, is_own in enumerate(prompt.loss_mask) if is_own][:-1]
            before = [place - 1 for place in own]
            chances = self.model.logits(talk)[before].log_softmax(dim=-1)
            ids = chances.new_tensor([prompt.input_ids[place] for place in own]).long()
            each = chances.gather(1, ids[:, None])
            results.append((each.sum().item(), bool((chances.argmax(dim=1) == ids).all())))
        return results

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """The answers of each request's rounds. After each, the task says what comes next, from
        what was answered so far, or that it is over."""
        results = []
        for request in requests:
            text, given, see, ask, *_ = request.args
            document = self.document(request)
            # A round ends by itself, not at a stop string: so other models of lmms-eval have it.
            settings = generation({**given, "until": []})
            images, answers, told = see(document), [], None
            for rounds in count(1):
                answers.append(self.model.chat(conversation(text, images), **settings))
                images, text, over, answers, told = ask(
                    document, previous_output=answers, round_idx=rounds, previous_round_info=told
                )
                answers = list(answers)
                if over:
                    break
            results.append(answers)
            self.cache_hook.add_partial("generate_until_multi_round", request.args[:2], answers)
        return results

    def document(self, request: Instance) -> Any:
        """The task's own record of a request."""
        *_, number, task, split = request.args
        return self.task_dict[task][split][number]

    def first_turn(self, request: Instance) -> list[dict[str, Any]]:
        """A request's text and images as a conversation."""
        see = request.args[2]
        return conversation(request.args[0], [] if see is None else see(self.document(request)))


def generation(settings: dict[str, Any]) -> dict[str, Any]:
    """A task's settings as fields of our `GenerationConfig`."""
    until = settings.get("until") or []
    temperature = settings.get("temperature") or 0.0
    return {
        "max_tokens": settings.get("max_new_tokens") or 1024,
        "stop": [until] if isinstance(until, str) else list(until),
        "temperature": temperature,
        "beams": 1 if temperature else settings.get("num_beams") or 1,
    }


def conversation(text: str, visuals: Any) -> list[dict[str, Any]]:
    """Text and images as a conversation of ours, each image where the text has `<image>`, or all in
    front; a DataError if something else is to be looked at."""
    images = list(flat(visuals or []))
    other = [type(each).__name__ for each in images if not isinstance(each, Image.Image)]
    if other:
        raise DataError(f"this task shows {', '.join(sorted(set(other)))}: vlm sees images only")
    content: list[dict[str, Any]] = []
    parts = text.split(IMAGE)
    if len(parts) != len(images) + 1:
        parts = [""] * len(images) + [text]
    for part, image in zip(parts, [*images, None], strict=True):
        content += [{"type": "text", "text": part}] if part else []
        content += [{"type": "image", "image": image}] if image is not None else []
    return [{"role": "user", "content": content}]


def flat(items: Any) -> Iterable[Any]:
    """What lists hold, and lists in them."""
    if not isinstance(items, list | tuple):
        yield items
        return
    for item in items:
        yield from flat(item)


def manifest() -> Any:
    """What lmms-eval registers."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("vlm", simple_class_path="eval.lmms.VLM")
