#!/usr/bin/env bash
# transformers 5.23.0 (tokenizers 0.23.3, jinja2 3.1.6), no torch.
# Done: apply_chat_template() of a template that trims m['content'], as text
#   models have it, with content as a list of parts, the form that the
#   documentation of multimodal chat templates gives.
# Seen: Python's list, brackets, quotes and keys, is what the prompt says;
#   no error, no warning (warnings are errors here, stderr stays empty).
# Expected: an error or a warning, or the parts' text.
# Output seen:
#   as a string: 'A cat?'
#   as parts: "[{'type': 'text', 'text': 'A cat?'}]"
#   words on stderr: 0
# Exits 0 while this is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

python3 -m venv "$tmp/venv"
"$tmp/venv/bin/python" -m pip install --quiet transformers==5.23.0 tokenizers==0.23.3 jinja2==3.1.6

cat >"$tmp/show.py" <<'PY'
import sys
import warnings
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

print("imported", file=sys.stderr)  # what follows this line is of apply_chat_template
warnings.simplefilter("error")
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"?": 0}, unk_token="?")))
tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | trim }}{% endfor %}"
forms = {"as a string": "A cat?", "as parts": [{"type": "text", "text": "A cat?"}]}
for name, content in forms.items():
    print(f"{name}: {tokenizer.apply_chat_template([{'role': 'user', 'content': content}], tokenize=False)!r}")
PY
"$tmp/venv/bin/python" "$tmp/show.py" 2>"$tmp/stderr" | tee "$tmp/seen"
echo "words on stderr: $(sed '1,/^imported$/d' "$tmp/stderr" | wc -w | tr -d ' ')" | tee -a "$tmp/seen"

cat >"$tmp/stated" <<'TXT'
as a string: 'A cat?'
as parts: "[{'type': 'text', 'text': 'A cat?'}]"
words on stderr: 0
TXT
cmp -s "$tmp/seen" "$tmp/stated" || { echo "changed: not what the comment states"; exit 1; }
