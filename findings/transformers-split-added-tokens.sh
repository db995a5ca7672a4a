#!/usr/bin/env bash
# transformers 5.23.0 (tokenizers 0.23.3), no torch. Done: a fast and a Python
#   tokenizer get "<image>" as a special token and "<think>" as AddedToken(
#   special=False); text is encoded with split_special_tokens=True.
# Seen: both split "<image>"; only Python's splits "<think>". With the fast one
#   text that a user types can be the model's control token.
# Expected: the two alike; the parameter's documentation tells no difference.
# Output seen:
#   fast a<image>b: a < i m a g e > b
#   fast a<think>b: a <think> b
#   python a<image>b: a < i m a g e > b
#   python a<think>b: a < t h i n k > b
# Exits 0 while this is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

python3 -m venv "$tmp/venv"
"$tmp/venv/bin/python" -m pip install --quiet transformers==5.23.0 tokenizers==0.23.3

cat >"$tmp/show.py" <<'PY'
from tokenizers import Tokenizer, models
from transformers import AddedToken, PreTrainedTokenizer, PreTrainedTokenizerFast

letters = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz<>")}


class Letters(PreTrainedTokenizer):
    vocab_size = len(letters)

    def get_vocab(self):
        return dict(letters)

    def _tokenize(self, text):
        return list(text)

    def _convert_token_to_id(self, token):
        return letters[token]

    def _convert_id_to_token(self, index):
        return list(letters)[index]


fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab=letters, merges=[])))
for name, tokenizer in ("fast", fast), ("python", Letters()):
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    tokenizer.add_tokens([AddedToken("<image>", special=True)], special_tokens=True)
    for text in "a<image>b", "a<think>b":
        ids = tokenizer.encode(text, split_special_tokens=True, add_special_tokens=False)
        print(f"{name} {text}: {' '.join(tokenizer.convert_ids_to_tokens(ids))}")
PY
"$tmp/venv/bin/python" "$tmp/show.py" | tee "$tmp/seen"

cat >"$tmp/stated" <<'TXT'
fast a<image>b: a < i m a g e > b
fast a<think>b: a <think> b
python a<image>b: a < i m a g e > b
python a<think>b: a < t h i n k > b
TXT
cmp -s "$tmp/seen" "$tmp/stated" || { echo "changed: not what the comment states"; exit 1; }
