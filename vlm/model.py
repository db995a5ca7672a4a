"""Model: vision tower, projector and language model as one, to train and to talk to."""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from vlm.beams import beam_search
from vlm.checkpoint import save
from vlm.config import GenerationConfig, ModelConfig, generation_of
from vlm.decode import Answer, Decoding
from vlm.errors import ConfigError, PromptError, VLMError
from vlm.images import ImageSource, image_fingerprint, load_image
from vlm.messages import Images, Messages, with_images
from vlm.prefill import Language, Prefill, prefill, shared_prefix
from vlm.projector import Projector
from vlm.prompt import IMAGE_SLOT, Prompt, build_prompt
from vlm.splice import pad, splice
from vlm.tiles import Layout
from vlm.tower import VisionTower

if TYPE_CHECKING:
    from transformers import PreTrainedModel

IMAGES_KEPT = 64
"""Encoded images kept for later turns and questions; one of 576 tokens takes 1 to 2 MB."""


class Spliceable(Protocol):
    """What `VisionLanguageModel.forward` reads of a batch: ids (B, T), `IMAGE_SLOT` where an image
    token goes, and the images of all rows in order: pixel values (I, 3, H, W), or patch tokens
    (I, N, D); of images that are cut into tiles, those of all squares, and each one's layout."""

    input_ids: Tensor
    images: Tensor
    images_per_row: Sequence[int]
    layouts: Sequence[Layout]


class VisionLanguageModel(nn.Module):
    """Image -> patch tokens -> image tokens, spliced into the text -> logits. `trained` are the
    names of the tensors that a checkpoint must hold, for they are not those of the frozen parts'
    sources. Where a `Llama` stands for the language model, `in_parts` loads the
    same model with transformers' own."""

    def __init__(
        self,
        config: ModelConfig,
        vision: VisionTower,
        projector: Projector,
        language: Language,
    ) -> None:
        super().__init__()
        self.config = config
        self.vision = vision
        self.projector = projector
        self.language = language
        self.in_parts: Callable[[], VisionLanguageModel] | None = None
        self.trained = {
            name for name in self.state_dict() if name.startswith("projector.") or ".lora_" in name
        }
        self._encoded: OrderedDict[str, Tensor] = OrderedDict()

    @property
    def device(self) -> torch.device:
        return self.language.device

    def forward(
        self, batch: Spliceable, loss: Callable[["PreTrainedModel", Tensor, Any], Tensor]
    ) -> Tensor:
        """The loss of a training batch, that of `loss(language model, embeddings (B, T, H), batch)`
        on the spliced batch; inside the forward pass, since what wraps the model for several
        processes (DDP, FSDP) must see every use of its weights there.

        A batch without images gives whatever trains a gradient all the same.
        """
        patch_tokens = batch.images
        if batch.images.ndim == 4 and len(batch.images):
            patch_tokens = self.vision(batch.images)
        elif batch.images.ndim == 4:
            # Towers refuse a batch of none, but one that trains must still have its gradient.
            patch_tokens = self.vision(batch.images.new_zeros(1, *batch.images.shape[1:]))[:0]
        image_tokens = self._split(self.project(patch_tokens), batch.images_per_row, batch.layouts)
        embeddings = self.embed(batch.input_ids, image_tokens)
        return loss(self.language.model, embeddings, batch)

    def project(self, patch_tokens: Tensor) -> Tensor:
        """Patch tokens (I, N, D) -> image tokens (I, M, H), in the projector's dtype."""
        weight = next(self.projector.parameters())
        return self.projector(patch_tokens.to(weight.device, weight.dtype))

    def embed(self, input_ids: Tensor, image_tokens: list[Tensor]) -> Tensor:
        """Token ids (B, T) and each row's image tokens (M, H) -> spliced embeddings (B, T, H)."""
        text = self.language.embed(input_ids.masked_fill(input_ids == IMAGE_SLOT, 0))
        return splice(text, input_ids, [tokens.to(text.device) for tokens in image_tokens])

    @torch.no_grad()
    def encode_images(self, images: Sequence[ImageSource]) -> Tensor:
        """Images -> patch tokens (I, N, D), or (S, N, D) of all their squares where they are cut
        into tiles. The last `IMAGES_KEPT` different images are remembered, so an image costs one
        pass of the tower however many turns and questions it has."""
        loaded = [load_image(image) for image in images]
        keys = [image_fingerprint(image) for image in loaded]
        new = {
            key: image for key, image in zip(keys, loaded, strict=True) if key not in self._encoded
        }
        if new:
            squares = [self.vision.see(image) for image in new.values()]
            encoded = self.vision(torch.cat(squares).to(self.device))
            per_image = encoded.split([len(each) for each in squares])
            self._encoded.update(zip(new, per_image, strict=True))
        for key in keys:
            self._encoded.move_to_end(key)
        patch_tokens = [self._encoded[key] for key in keys]
        while len(self._encoded) > IMAGES_KEPT:
            self._encoded.popitem(last=False)
        if not patch_tokens:
            shape = (0, self.vision.num_tokens, self.vision.width)
            return torch.zeros(shape, device=self.device)
        return torch.cat(patch_tokens)

    def forget_images(self) -> None:
        """Forgets encoded images, which a tower that trains would encode differently now."""
        self._encoded.clear()

    def prompt(
        self,
        messages: Messages,
        answer_next: bool = True,
        load: Callable[[Any], Image.Image] = load_image,
        image_tokens: int | None = None,
    ) -> Prompt:
        """A conversation as this model sees it, see `build_prompt`; `load` decodes its images where
        they are cut into tiles, as their size says how many tokens they get. `image_tokens` is for
        images at another size than the tower's."""
        tiles = self.vision.tiles

        def look(image: ImageSource) -> tuple[Image.Image, Layout]:
            loaded = load(image)
            return loaded, tiles.layout(loaded.size, self.projector.grid)

        tokens = image_tokens or (self.projector.num_tokens if tiles is None else look)
        return build_prompt(messages, self.language.template, tokens, answer_next)

    @torch.no_grad()
    def logits(self, messages: Messages) -> Tensor:
        """Logits (T, V), float32, at every position of the spliced conversation, ready for the
        assistant's next word; errors as `stream`."""
        prompt = self.prompt(messages)
        self._require_room(prompt, max_tokens=0)
        embeddings, _ = self._embed_prompts([prompt])
        return self.language(embeddings)[0].float()

    def stream(self, messages: Messages, images: Images = None, **generation: Any) -> Iterator[str]:
        """The answer, piece by piece as it is generated.

        Args:
            messages: a question, or a whole conversation.
            images: of the (last) question; they stand in front of its text.
            **generation: fields of `GenerationConfig`.

        Raises:
            PromptError: a malformed conversation, or one too long for the language model.
            ImageError: an image that cannot be read.
            ConfigError: a generation setting that there is not, or out of range.
            WeightsError: weights that give no numbers.
        """
        config = generation_of(generation)
        prompt = self.prompt(with_images(messages, images))
        answer = Answer(self.language, prompt.input_ids, config)
        decoding = Decoding(self.language, self.language.end_ids())
        self.join(decoding, [(prompt, answer)])
        if answer.ended:
            yield answer.text.sent
        while not answer.ended:
            yield from (piece for _, piece in decoding.step())

    def chat(self, messages: Messages, images: Images = None, **generation: Any) -> str:
        """The whole answer; arguments and errors as `stream`."""
        return "".join(self.stream(messages, images, **generation))

    def batch(
        self,
        questions: Sequence[tuple[Images, Messages]],
        batch_size: int = 16,
        errors: Literal["raise", "return"] = "raise",
        **generation: Any,
    ) -> list[str | VLMError]:
        """Answers to many (images, question), up to `batch_size` in one forward pass; settings and
        errors as `stream`. With `errors="return"`, a question that cannot be asked, such as one
        with an image that cannot be read, has its error in the place of its answer. What comes
        first, what is beside a question and how much padding it gets make no difference to its
        answer."""
        if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in questions):
            raise ConfigError(
                "batch takes pairs of images and question: [('a.jpg', 'What is it?')]"
            )
        return list(self.answers(questions, batch_size, errors, **generation))

    def answers(
        self,
        questions: Iterable[tuple[Images, Messages] | VLMError],
        batch_size: int = 16,
        errors: Literal["raise", "return"] = "raise",
        **generation: Any,
    ) -> Iterator[str | VLMError]:
        """As `batch`, in the same order, each answer as soon as it and those before it have ended;
        questions are taken as places become free. An error in the place of a question is its own
        answer."""
        config = generation_of(generation)
        if errors not in ("raise", "return"):
            raise ConfigError(f"errors must be raise or return, not {errors!r}")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {batch_size}")
        asked: deque[Answer | VLMError] = deque()

        def prompts() -> Iterator[tuple[Prompt, Answer]]:
            for each in questions:
                if isinstance(each, VLMError):
                    one = each
                elif errors == "return":
                    one = self._prompt_or_error(*each, config)
                else:
                    one = self.prompt(with_images(each[1], each[0]))
                if isinstance(one, VLMError):
                    asked.append(one)
                else:
                    asked.append(Answer(self.language, one.input_ids, config))
                    yield one, asked[-1]

        decoding = Decoding(self.language, self.language.end_ids())
        groups = photo_groups(prompts(), batch_size)
        group = next(groups, [])
        while asked:
            # Groups stay whole, since each part would compute the photo anew. Whoever joins costs
            # passes of its own, more than a place that is filled at once saves: not so a quarter.
            free, new = batch_size - len(decoding.running), []
            if 4 * free >= batch_size and decoding.open:
                while group and len(new) + len(group) <= free:
                    new += group
                    group = next(groups, [])
            if new:
                self.join(decoding, new)
            decoding.step()
            while asked and (isinstance(asked[0], VLMError) or asked[0].ended):
                first = asked.popleft()
                yield first if isinstance(first, VLMError) else first.text.sent

    def join(self, decoding: Decoding, asked: Sequence[tuple[Prompt, Answer]]) -> None:
        """The answers to prompts join those that are decoded, if it is `open`; by beam search they
        have ended at once. A PromptError for one that has no room."""
        for prompt, answer in asked:
            self._require_room(prompt, answer.config.max_tokens)
        prompts, answers = map(list, zip(*asked, strict=True))
        decoding.leave()
        start, config = self._prefill(prompts), answers[0].config
        if config.beams == 1:
            return decoding.join(start, answers)
        found = beam_search(self.language, start, decoding.end_ids, config.beams, config.max_tokens)
        for answer, ids in zip(answers, found, strict=True):
            for token in ids:
                answer.text.push(token)
            answer.text.finish()
            answer.ended = True

    def save(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes a checkpoint of this project's own form, see `checkpoint.save`."""
        whole = self.in_parts() if self.in_parts else self
        state = whole.state_dict()
        save(self.config, {name: state[name] for name in whole.trained}, Path(folder), dtype)

    def export_llava(self, folder: str | Path, dtype: torch.dtype | None = None) -> None:
        """Writes a folder for transformers' LlavaForConditionalGeneration, see `export.export`."""
        # Imported here, since it needs transformers' models.
        from vlm.export import export

        whole = self.in_parts() if self.in_parts else self
        export(whole.config, whole.vision, whole.projector, whole.language, Path(folder), dtype)

    def _prompt_or_error(
        self, images: Images, question: Messages, config: GenerationConfig
    ) -> Prompt | VLMError:
        """A prompt whose images are decoded and whose answer has room, or why there is none."""
        try:
            prompt = self.prompt(with_images(question, images))
            self._require_room(prompt, config.max_tokens)
            # The same object is encoded once, so one that was given stays itself.
            images = [(image, load_image(image)) for image in prompt.images]
            return replace(
                prompt, images=[a if isinstance(a, Image.Image) else rgb for a, rgb in images]
            )
        except VLMError as error:
            return error

    def _prefill(self, prompts: list[Prompt]) -> Prefill:
        """Prompts -> where decoding begins."""
        # Behind what is shared, the shorter ends are padded.
        shared = shared_prefix(prompts) if self.language.keeps_all else None
        if shared is None:
            return prefill(self.language, *self._embed_prompts(prompts))
        beginnings, ends, numbers = shared
        start = prefill(self.language, *self._embed_prompts(beginnings))
        start = start.select(torch.tensor(numbers, device=self.device))
        return prefill(self.language, *self._embed_prompts(ends), after=start)

    def _require_room(self, prompt: Prompt, max_tokens: int) -> None:
        limit = self.language.max_length
        if limit is not None and len(prompt) + max_tokens > limit:
            raise PromptError(
                f"a prompt of {len(prompt)} tokens and max_tokens={max_tokens} exceed the language "
                f"model's {limit} tokens: shorten the conversation or lower max_tokens"
            )

    def _embed_prompts(self, prompts: list[Prompt]) -> tuple[Tensor, Tensor]:
        """Prompts -> left-padded embeddings (B, T, H) and attention mask (B, T)."""
        input_ids, mask = pad([prompt.input_ids for prompt in prompts], side="left")
        images = [image for prompt in prompts for image in prompt.images]
        with torch.no_grad():
            image_tokens = self.project(self.encode_images(images))
            layouts = [layout for prompt in prompts for layout in prompt.layouts]
            counts = [len(prompt.images) for prompt in prompts]
            per_row = self._split(image_tokens, counts, layouts)
            embeddings = self.embed(input_ids.to(self.device), per_row)
        return embeddings, mask.to(self.device)

    def _split(
        self, image_tokens: Tensor, images_per_row: Sequence[int], layouts: Sequence[Layout]
    ) -> list[Tensor]:
        """(I, M, H), or (S, M, H) of all squares and the layouts of I images -> for each row, the
        tokens of its images one after the other."""
        row_break = self.projector.row_break
        if row_break is None:
            return [tokens.flatten(0, 1) for tokens in image_tokens.split(list(images_per_row))]
        squares = image_tokens.split([layout.squares for layout in layouts])
        images = map(Layout.join, layouts, squares, repeat(row_break))
        # So that a row without images still gives whatever trains a gradient.
        nothing = image_tokens[:0].flatten(0, 1) + row_break.to(image_tokens.dtype)
        return [torch.cat([nothing, *islice(images, count)]) for count in images_per_row]


def photo_groups(
    asked: Iterable[tuple[Prompt, Answer]], most: int
) -> Iterator[list[tuple[Prompt, Answer]]]:
    """Neighbours about the same images together, as `shared_prefix` takes them: those of one group
    that is no smaller than `most`, half as many at a time; prompts without images alone."""
    for _, group in groupby(asked, key=lambda pair: pair[0].images or object()):
        while part := list(islice(group, most)):
            half = most - most // 2 if len(part) == most else most
            yield from filter(None, (part[:half], part[half:]))
