#!/usr/bin/env bash
# transformers 5.23.0 (torch 2.13.0, accelerate 1.15.0), on a machine whose GPUs are
#   hidden. Done: TrainingArguments are made for a CPU in float32, with bf16=True,
#   and with bf16=True and use_cpu=True.
# Seen: without bf16 the CPU is chosen by itself; bf16=True alone is refused,
#   though the same CPU is taken, in bfloat16, once use_cpu=True is said too.
# Expected: the device that is chosen without bf16 is chosen with it.
# Output seen:
#   float32: cpu
#   bf16: ValueError, asks for use_cpu: True
#   bf16, use_cpu: cpu
# Exits 0 while this is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

python3 -m venv "$tmp/venv"
"$tmp/venv/bin/python" -m pip install --quiet transformers==5.23.0 torch==2.13.0 accelerate==1.15.0

cat >"$tmp/show.py" <<'PY'
import sys

from transformers import TrainingArguments

folder = sys.argv[1]
print(f"float32: {TrainingArguments(folder).device}")
try:
    print(f"bf16: {TrainingArguments(folder, bf16=True).device}")
except ValueError as error:
    print(f"bf16: ValueError, asks for use_cpu: {'use_cpu' in str(error)}")
print(f"bf16, use_cpu: {TrainingArguments(folder, bf16=True, use_cpu=True).device}")
PY
CUDA_VISIBLE_DEVICES= "$tmp/venv/bin/python" "$tmp/show.py" "$tmp/out" 2>"$tmp/errors" | tee "$tmp/seen"

cat >"$tmp/stated" <<'TXT'
float32: cpu
bf16: ValueError, asks for use_cpu: True
bf16, use_cpu: cpu
TXT
cmp -s "$tmp/seen" "$tmp/stated" || { echo "changed: not what the comment states"; exit 1; }
