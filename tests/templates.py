"""Tokenizers and chat templates of the kinds that language models and LLaVAs come with."""

import functools

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tests import tiny

IMAGES_FIRST = (
    "{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}"
)
"""Beginning of a content that is written parts only, its images in front."""

TEMPLATES = {
    "llava-1.5": "{% for m in messages %}"
    "{% if m['role'] != 'system' %}{{ m['role'] | upper }}: {% endif %}"
    + IMAGES_FIRST
    + "{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}",
    "mistral": "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}[INST] {% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'text' %}{{ c['text'] }}{% else %}<image>{% endif %}{% endfor %}"
    "{% endif %} [/INST]{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ m['content'] + '\n\n' }}{% endif %}{% endfor %}",
    "llama-3": "{% for m in messages %}{% set text %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
    + IMAGES_FIRST
    + "{{ c['text'] | trim }}{% endfor %}<|eot_id|>{% endset %}"
    "{{ bos_token + text if loop.first else text }}{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "phi-3": "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}"
    + IMAGES_FIRST
    + "{{ c['text'] }}{% endfor %}{{ '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    # Of language models: strings only.
    "glm": "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "r1": "{{ bos_token }}{% for m in messages %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}",
    "qwen-3": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    # Another opening for each of: an answer to come, the last one, one before it.
    "qwen-3.5": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if loop.last and m['role'] == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}",
    "nameless": "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] }}<|end|>\n"
    "{% endfor %}",
}

SPECIAL = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SPECIAL += ["<|im_start|>", "<|im_end|>", "<|end|>", "<image>"]
ROLES = ["<|system|>", "<|user|>", "<|assistant|>"]
THOUGHTS = ["<think>", "</think>"]


@functools.cache
def tokenizer(
    kind: str, template: str | None = None, chatml: bool = True
) -> PreTrainedTokenizerFast:
    """With `<unk>`, `<s>`, `</s>`, and the tokens of all templates, of which those of thoughts and
    of roles are not special, and the latter swallow what whitespace follows.

    Byte-level BPE (`byte`), or BPE over words with a `▁` in front: of all (`always`; `legacy` by a
    normaliser), or all but those behind a special token (`first`). It puts `<s>` in front."""
    special = ["<unk>", "<s>", "</s>"]
    if kind == "byte":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        scheme = "always" if kind == "legacy" else kind
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=True)
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)])
        special += [f"<0x{byte:02X}>" for byte in range(256)]
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(tiny.TEXT, trainer)
    if kind == "legacy":
        parts = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        backend.normalizer = normalizers.Sequence(parts)
        backend.pre_tokenizer = None
    used = SPECIAL if chatml else [token for token in SPECIAL if "|im_" not in token]
    backend.add_special_tokens([AddedToken(t, normalized=False) for t in used])
    backend.add_tokens([AddedToken(t, rstrip=True, normalized=False) for t in ROLES])
    backend.add_tokens([AddedToken(t, normalized=False) for t in THOUGHTS])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=TEMPLATES.get(template, template),
    )
