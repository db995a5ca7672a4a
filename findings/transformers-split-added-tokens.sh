#!/usr/bin/env bash
# transformers 5.23.0 (tokenizers 0.23.3), no torch.
# Done: a tiny BPE tokenizer gets "<think>" as AddedToken(special=False), as
#   reasoning models have it, and "<image>" as a special token; text with
#   either is encoded with split_special_tokens=True, as text typed by a user.
# Seen: "<image>" is split into its letters, "<think>" stays one token: a user
#   who types it writes the model's control token. No option prevents it.
# Expected: split too, or an option for it: the parameter is documented as
#   what splits special tokens into sub-words, and says nothing of this rest.
# Output seen:
#   a<image>b: ['a', '<', 'i', 'm', 'a', 'g', 'e', '>', 'b']
#   a<think>b: ['a', '<think>', 'b']
# Exits 0 while this is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

python3 -m venv "$tmp/venv"
"$tmp/venv/bin/python" -m pip install --quiet transformers==5.23.0 tokenizers==0.23.3

cat >"$tmp/show.py" <<'PY'
from tokenizers import Tokenizer, models
from transformers import AddedToken, PreTrainedTokenizerFast

letters = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz<>")}
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab=letters, merges=[])))
tokenizer.add_tokens([AddedToken("<think>", special=False)])
tokenizer.add_tokens([AddedToken("<image>", special=True)], special_tokens=True)
for text in "a<image>b", "a<think>b":
    ids = tokenizer.encode(text, split_special_tokens=True)
    print(f"{text}: {tokenizer.convert_ids_to_tokens(ids)}")
PY
"$tmp/venv/bin/python" "$tmp/show.py" | tee "$tmp/seen"

cat >"$tmp/stated" <<'TXT'
a<image>b: ['a', '<', 'i', 'm', 'a', 'g', 'e', '>', 'b']
a<think>b: ['a', '<think>', 'b']
TXT
cmp -s "$tmp/seen" "$tmp/stated" || { echo "changed: not what the comment states"; exit 1; }
