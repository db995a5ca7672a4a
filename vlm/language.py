"""Language model: any transformers causal LM with its tokenizer, fed with embeddings.

It is never resized for an image token: image slots have no id of their own (see prompt.py).
"""

import functools
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vlm.chat_template import ChatTemplate
from vlm.config import LanguageConfig, LoraConfig
from vlm.errors import ConfigError
from vlm.sources import local_source, quiet_loading, reading

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel


class LanguageModel(nn.Module):
    """A causal language model with its tokenizer, asked in the words of a chat template; `width` is
    H, the features of one embedding."""

    def __init__(self, model: "PreTrainedModel", template: ChatTemplate) -> None:
        super().__init__()
        self.model = model
        self.template = template
        self.tokenizer = template.tokenizer
        self.width: int = model.get_input_embeddings().weight.shape[1]
        for module in model.modules():
            # bitsandbytes repacks 4-bit weights for the CPU at the first eval forward, and a
            # repacked layer has no autograd: gradients through it would be silently wrong.
            if hasattr(module, "support_avx512bf16_for_cpu"):
                module.support_avx512bf16_for_cpu = False

    @property
    def table(self) -> Tensor:
        """The embeddings (V, H)."""
        return self.model.get_input_embeddings().weight

    @property
    def dtype(self) -> torch.dtype:
        return self.table.dtype

    @property
    def device(self) -> torch.device:
        return self.table.device

    @property
    def max_length(self) -> int | None:
        """Positions that the model was made for; None if it does not say."""
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    @functools.cached_property
    def cache_name(self) -> str:
        """What the model's forward pass calls its cache; transformers 5.24 has renamed it."""
        takes = inspect.signature(self.model.forward).parameters
        return "cache" if "cache" in takes else "past_key_values"

    @functools.cached_property
    def keeps_all(self) -> bool:
        """Whether its cache has keys and values of every token, and nothing else: only then may
        padding lie anywhere in a row. A sliding window would count it as tokens, and a recurrent
        state has no place for it."""
        from transformers.cache_utils import DynamicLayer

        # Layers that inherit from it keep more, or less.
        plain = all(type(layer) is DynamicLayer for layer in self.new_cache().layers)
        return plain and not self.model._is_stateful

    def new_cache(self) -> "Cache":
        """A cache of keys and values that nothing is in."""
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids (..., T) -> embeddings (..., T, H)."""
        return self.model.get_input_embeddings()(input_ids)

    def embedding_rms(self) -> float:
        """Root mean square of the embedding table: the scale image tokens should start at."""
        return self.table.detach().float().square().mean().sqrt().item()

    def forward(
        self,
        embeddings: Tensor,
        attention_mask: Tensor | None = None,
        cache: "Cache | None" = None,
        logits_to_keep: int = 0,
    ) -> Tensor:
        """Embeddings (B, T, H) -> logits (B, T, V).

        Args:
            attention_mask: (B, S) with 1 for a token and 0 for padding, which has no position, S
                counting what is in the cache too.
            cache: keys and values of what came before; extended in place.
            logits_to_keep: compute them for the last so many positions; 0 is all of them.
        """
        position_ids = None
        if attention_mask is not None:
            position_ids = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
            position_ids = position_ids[:, -embeddings.shape[1] :]
        output = self.model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            use_cache=cache is not None,
            logits_to_keep=logits_to_keep,
            **{self.cache_name: cache},
        )
        return output.logits

    def add_lora(self, config: LoraConfig) -> None:
        """Puts trainable low-rank adapters on the linear layers; the model's class stays as it is.
        Targets that are not in the model are a ConfigError."""
        with quiet_loading():
            import peft

            adapters = peft.LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,
                lora_dropout=config.dropout,
                target_modules=config.targets,
                task_type="CAUSAL_LM",
            )
            try:
                peft.inject_adapter_in_model(adapters, self.model)
            except (ValueError, re.error) as error:
                raise ConfigError(f"language.lora: {' '.join(str(error).split())}") from error

    @torch.no_grad()
    def merge_adapters(self) -> None:
        """Adds the adapters to the weights that they adapt, in place: decoding is faster. Their own
        tensors stay for a checkpoint, but no longer train.

        Left alone are quantised weights, since rounding anew would lose most of the update, and a
        head that is also the embedding table. Adapters there are brought to the model's dtype.
        """
        for module in self.model.modules():
            if hasattr(module, "get_delta_weight"):
                weight = module.get_base_layer().weight
                if weight.is_floating_point() and weight is not self.table:
                    module.merge()
        for name, parameter in self.model.named_parameters():
            if ".lora_" in name:
                parameter.data = parameter.data.to(self.dtype)

    def checkpoint_gradients(self) -> None:
        """Trains in less memory: in train mode, a layer's activations are not kept but computed
        again in the backward pass (Chen et al. 2016)."""
        # transformers has renamed the second to the first; where both are there, it warns.
        enable = getattr(self.model, "activation_checkpointing_enable", None)
        try:
            (enable or self.model.gradient_checkpointing_enable)({"use_reentrant": False})
        except ValueError as error:
            raise ConfigError(f"gradient_checkpointing: {error}") from error
        # transformers makes every embedding require gradients, which only re-entrant checkpoints
        # need: it would cost the backward pass of all layers in front of the first that trains.
        self.model.disable_input_require_grads()

    def end_ids(self) -> set[int]:
        """Tokens that end an answer: the one that training teaches to, and those at which the model
        and the tokenizer say so."""
        ends = self.model.generation_config.eos_token_id if self.model.can_generate() else None
        ids = {*ends} if isinstance(ends, list) else {ends}
        ids |= {self.tokenizer.eos_token_id, self.template.end_id}
        return ids - {None}


def load_language(
    config: LanguageConfig, device: torch.device, dtype: torch.dtype
) -> LanguageModel:
    """Loads the language model that a config names, frozen, on its device: a WeightsError if its
    source is not there, a ConfigError for adapters that do not fit, or no bitsandbytes, a
    PromptError for a chat template that it has not, or that cannot be followed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = local_source(config.source, config.revision)
    where: dict[str, Any] = {"revision": config.revision}
    options = quantization_options(config.load_in, device, dtype)
    if source.endswith(".gguf"):
        path = Path(source)
        source = str(path.parent)
        where["gguf_file"] = path.name
        options = options or {"quantization_config": GgufConfig(dequantize=True)}
    with reading(config.source), quiet_loading():
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **where, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **where)
    if not config.load_in:
        model.to(device)
    template = ChatTemplate(tokenizer, config.prompt)
    language = LanguageModel(model.requires_grad_(False).eval(), template)
    if config.lora:
        language.add_lora(config.lora)
    return language


def quantization_options(
    load_in: str | None,
    device: torch.device,
    dtype: torch.dtype,
    whole: Sequence[str] = ("lm_head",),
) -> dict[str, Any]:
    """Options of `from_pretrained` for weights in fewer bits, through bitsandbytes: NF4 (Dettmers
    et al. 2023) for `4bit`, computed in `dtype`, LLM.int8() (2022) for `8bit`, none for None;
    `whole` modules keep their precision."""
    if load_in is None:
        return {}
    try:
        with quiet_loading():
            import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"load_in={load_in} needs bitsandbytes: pip install 'vlm[quant]'"
        ) from error
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=load_in == "4bit",
        load_in_8bit=load_in == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(whole),
    )
    return {"quantization_config": config, "device_map": {"": device}}
