#!/usr/bin/env bash
# transformers 5.23.0, no torch. Done: folders with the config of a model and no
#   tokenizer's files, as `model.save_pretrained` leaves them, are given to
#   AutoTokenizer.from_pretrained.
# Seen: for Llama an error says what is missing. For CLIP, SigLIP2 and BERT a
#   tokenizer is returned, without a word, that knows nothing but special tokens:
#   every text of the same length is the same to it, or every text at all.
# Expected: the same error for all of them.
# Output seen:
#   llama: ValueError
#   clip: 2 tokens, cats and dogs are the same: True
#   siglip2: 5 tokens, cats and dogs are the same: True
#   bert: 5 tokens, cats and dogs are the same: True
# Exits 0 while this is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

python3 -m venv "$tmp/venv"
"$tmp/venv/bin/python" -m pip install --quiet transformers==5.23.0

cat >"$tmp/show.py" <<'PY'
import sys

from transformers import AutoTokenizer, BertConfig, CLIPConfig, LlamaConfig, Siglip2Config

for config in LlamaConfig, CLIPConfig, Siglip2Config, BertConfig:
    folder = f"{sys.argv[1]}/{config.model_type}"
    config().save_pretrained(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except ValueError as error:
        print(f"{config.model_type}: {type(error).__name__}")
        continue
    cats, dogs = (tokenizer(f"two {word}").input_ids for word in ("cats", "dogs"))
    print(f"{config.model_type}: {len(tokenizer)} tokens, cats and dogs are the same: {cats == dogs}")
PY
HF_HUB_OFFLINE=1 "$tmp/venv/bin/python" "$tmp/show.py" "$tmp" 2>"$tmp/errors" | tee "$tmp/seen"

cat >"$tmp/stated" <<'TXT'
llama: ValueError
clip: 2 tokens, cats and dogs are the same: True
siglip2: 5 tokens, cats and dogs are the same: True
bert: 5 tokens, cats and dogs are the same: True
TXT
cmp -s "$tmp/seen" "$tmp/stated" || { echo "changed: not what the comment states"; exit 1; }
