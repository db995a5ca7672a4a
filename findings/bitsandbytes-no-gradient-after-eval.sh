#!/usr/bin/env bash
# bitsandbytes 0.50.2 (torch 2.13.0), on a CPU with AVX512-BF16 (else it says so
#   and exits 0). Done: a torch Linear before an NF4 Linear4bit gets a training
#   step, one forward in eval mode under no_grad, and the same step again.
# Seen: the eval forward repacks the 4-bit weight for good. At the second step
#   no gradient reaches the Linear, and backward() ends well; the one sign is
#   torch's UserWarning. What lies before stops learning at the first validation.
# Expected: the first step's gradient, or an error.
# Output seen:
#   before eval: gradient True, output requires grad True
#   after eval: gradient False, output requires grad True
#   warnings: bitsandbytes::gemv_4bit: an autograd kernel was not registered
# Exits 0 while this is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

python3 -m venv "$tmp/venv"
"$tmp/venv/bin/python" -m pip install --quiet bitsandbytes==0.50.2 torch==2.13.0 numpy==2.4.6

cat >"$tmp/show.py" <<'PY'
import sys
import warnings
import bitsandbytes
import torch
from bitsandbytes.functional import has_avx512bf16
from torch import nn

if not has_avx512bf16():
    print("this CPU has no AVX512-BF16: nothing is repacked")
    sys.exit()
quantised = bitsandbytes.nn.Linear4bit(64, 64, bias=False, quant_type="nf4", compute_dtype=torch.bfloat16)
model = nn.Sequential(nn.Linear(64, 64), quantised.to("cpu"))  # quantised by to()
inputs = torch.randn(4, 64)


def step(when):
    model.train().zero_grad()
    out = model(inputs)
    out.sum().backward()
    gradient = model[0].weight.grad
    found = gradient is not None and bool(gradient.abs().sum() > 0)
    print(f"{when}: gradient {found}, output requires grad {out.requires_grad}")


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    step("before eval")
    with torch.no_grad():
        model.eval()(inputs)
    step("after eval")
texts = {str(warning.message).split(" to the Autograd")[0] for warning in caught}
print("warnings:", *sorted(text for text in texts if "bitsandbytes" in text))
PY
"$tmp/venv/bin/python" "$tmp/show.py" | tee "$tmp/seen"
if grep -q "nothing is repacked" "$tmp/seen"; then exit 0; fi

cat >"$tmp/stated" <<'TXT'
before eval: gradient True, output requires grad True
after eval: gradient False, output requires grad True
warnings: bitsandbytes::gemv_4bit: an autograd kernel was not registered
TXT
cmp -s "$tmp/seen" "$tmp/stated" || { echo "changed: not what the comment states"; exit 1; }
