"""The obvious way: transformers' LlavaForConditionalGeneration in transformers' Trainer.

One sequence for each caption, each with its own copy of the photo, which the frozen tower encodes
anew; loss from the logits of all positions, as the class does it. Otherwise as good as its settings
allow, see README.md: among others, it gets the recipe's own batches.
"""

import random
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from measured import Measured, peak_memory, workers
from PIL import Image
from recipe_way import RECIPE, config_of
from settings import CAPTIONS, Setting
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    LlavaForConditionalGeneration,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from train.batch import collate
from train.config import TrainConfig
from train.flops import ModelFlops, peak_flops
from train.loader import prompts_of
from train.order import epoch_batches, epoch_order
from vlm.chat_template import ChatTemplate
from vlm.data.read import read_sources
from vlm.prompt import IMAGE_SLOT, Prompt, build_prompt

OBVIOUS = "transformers' Trainer"


def inputs_of(prompts: list[Prompt], processor: Any, image_token: int) -> dict[str, Tensor]:
    """Captions of a step -> what LlavaForConditionalGeneration takes."""
    photos = [Image.open(prompt.images[0].path).convert("RGB") for prompt in prompts]
    pixel_values = processor(photos, return_tensors="pt")["pixel_values"]
    batch = collate(prompts, pixel_values)
    labels = torch.full_like(batch.input_ids, -100)
    labels[batch.target_rows, batch.target_positions + 1] = batch.target_ids
    return {
        "pixel_values": pixel_values,
        "input_ids": batch.input_ids.masked_fill(batch.input_ids == IMAGE_SLOT, image_token),
        "labels": labels,
        "attention_mask": batch.attention_mask,
    }


class Clock(TrainerCallback):
    """When each step was done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(perf_counter())


def fastest_dtype(setting: Setting) -> torch.dtype:
    """bfloat16 on CUDA; of a CPU, that in which it multiplies the feed-forward matrices of this
    language model faster."""
    if torch.cuda.is_available():
        return torch.bfloat16
    width, inner = setting.language.hidden_size, setting.language.intermediate_size

    def seconds(dtype: torch.dtype) -> float:
        rows, weight = torch.ones(256, width, dtype=dtype), torch.ones(width, inner, dtype=dtype)
        times = [perf_counter()]
        for _ in range(4):
            rows @ weight
            times.append(perf_counter())
        return min(end - start for start, end in pairwise(times[1:]))

    return min((torch.float32, torch.bfloat16), key=seconds)


def time_trainer(setting: Setting, folder: Path, flops: ModelFlops, dtype: torch.dtype) -> Measured:
    """Runs it on the photos, captions and weights of the recipe, which lie in `folder`; `flops` is
    what a step costs where the tower runs in it; `dtype` is of what is frozen."""
    on_gpu = torch.cuda.is_available()
    model = LlavaForConditionalGeneration.from_pretrained(folder / "llava", dtype=dtype)
    model.requires_grad_(False)
    # In bfloat16 it would lose its updates.
    model.model.multi_modal_projector.float().requires_grad_()
    model.config.text_config.use_cache = False
    config = config_of(setting, folder, RECIPE)
    arguments = TrainingArguments(
        str(folder / "trainer"),
        per_device_train_batch_size=setting.photos * CAPTIONS,
        max_steps=config.max_steps,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        adam_beta2=config.beta2,
        max_grad_norm=config.clip,
        bf16=dtype == torch.bfloat16,
        use_cpu=not on_gpu,
        train_sampling_strategy="sequential",
        dataloader_num_workers=workers(),
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    prompts = in_recipe_order(setting, folder, config)
    clock = Clock()
    collator = partial(
        inputs_of,
        processor=AutoImageProcessor.from_pretrained(folder / "llava"),
        image_token=model.config.image_token_index,
    )
    loss = Trainer(model, arguments, collator, prompts, callbacks=[clock]).train().training_loss
    timed = clock.times[max(0, setting.warm_up - 1) :]
    seconds = median(end - start for start, end in pairwise(timed))
    steps = setting.total_steps
    tokens = sum(map(len, prompts)) / steps
    needed = flops.step(
        tokens,
        pairs=sum(len(prompt) ** 2 for prompt in prompts) / steps,
        targets=sum(sum(prompt.loss_mask) for prompt in prompts) / steps,
        images=setting.photos * CAPTIONS,
    )
    peak = peak_flops(model.device)
    return Measured(
        captions=setting.photos * CAPTIONS / seconds,
        tokens=tokens / seconds,
        memory=peak_memory(),
        loss=loss,
        precision="bf16" if dtype == torch.bfloat16 else "fp32",
        mfu=peak and needed / seconds / peak,
    )


def in_recipe_order(setting: Setting, folder: Path, config: TrainConfig) -> list[Prompt]:
    """A sequence for each caption, written before it begins: those of the recipe's first step, of
    its second, and so on to the end of the run."""
    (source,) = read_sources(config.data)
    order = epoch_order([len(source.usable)], [source.source.weight], config.seed, epoch=0)
    samples = [source.usable[place] for place in order]
    lengths = [sum(map(len, sample.texts())) for sample in samples]
    prompt = partial(
        build_prompt,
        template=ChatTemplate(AutoTokenizer.from_pretrained(folder / "llava"), "chatml"),
        image_tokens=setting.tokens,
        answer_next=False,
    )
    steps = epoch_batches(lengths, config.batch_size, config.seed, epoch=0)
    most = setting.language.max_position_embeddings
    return [
        one
        for step in steps[: config.max_steps]
        for place in step
        for one in prompts_of(samples[place], prompt, random.Random(config.seed), most)[0]
    ]
