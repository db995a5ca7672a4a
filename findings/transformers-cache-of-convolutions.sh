#!/usr/bin/env bash
# transformers 5.23.0 with torch 2.13.0 (CPU). Done: the cache of a batch of three
#   prompts, of a tiny random Llama and of a tiny random LFM2 (a layer of
#   convolution, one of attention), is cut down to two of its rows by each of the
#   methods that the class of both caches has for it, and decoded on.
# Seen: with Llama all three work. With LFM2 reorder_cache, given the numbers of the
#   rows, works, and gives the rows asked for; batch_select_indices and
#   batch_repeat_interleave end in an AttributeError from inside: the layer of a
#   convolution has no such method.
# Expected: the same of all caches, or an error that says what is not supported.
# Output seen:
#   llama: reorder_cache 2 rows, batch_select_indices 2 rows, batch_repeat_interleave 6 rows
#   lfm2: reorder_cache 2 rows, batch_select_indices AttributeError, batch_repeat_interleave AttributeError
# Exits 0 while this is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

python3 -m venv "$tmp/venv"
"$tmp/venv/bin/python" -m pip install --quiet transformers==5.23.0 torch==2.13.0

cat >"$tmp/show.py" <<'PY'
import torch
from transformers import AutoModelForCausalLM, Lfm2Config, LlamaConfig

SIZES = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
CHANGES = {
    "reorder_cache": torch.tensor([2, 0]),
    "batch_select_indices": torch.tensor([2, 0]),
    "batch_repeat_interleave": 2,
}
configs = LlamaConfig(**SIZES), Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])
for config in configs:
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = torch.randint(1, 50, (3, 7))
    told = []
    for name, rows in CHANGES.items():
        with torch.no_grad():
            cache = model(ids).past_key_values
            try:
                getattr(cache, name)(rows)
            except AttributeError:
                told.append(f"{name} AttributeError")
                continue
            count = 6 if isinstance(rows, int) else len(rows)
            out = model(torch.ones(count, 1, dtype=torch.long), past_key_values=cache)
            told.append(f"{name} {len(out.logits)} rows")
    print(f"{config.model_type}: {', '.join(told)}")
PY
HF_HUB_OFFLINE=1 "$tmp/venv/bin/python" "$tmp/show.py" 2>"$tmp/errors" | tee "$tmp/seen"

cat >"$tmp/stated" <<'TXT'
llama: reorder_cache 2 rows, batch_select_indices 2 rows, batch_repeat_interleave 6 rows
lfm2: reorder_cache 2 rows, batch_select_indices AttributeError, batch_repeat_interleave AttributeError
TXT
cmp -s "$tmp/seen" "$tmp/stated" || { echo "changed: not what the comment states"; exit 1; }
