#!/usr/bin/env bash
# transformers 5.23.0 -> 4.57.6 (torch 2.13.0 on a CPU). Done: a tiny LLaVA with
#   a CLIP tower, made from a config, is saved by 5.23.0, read twice by 4.57.6.
# Seen: 5.23.0 writes the tower's names without "vision_model.", which 4.57.6
#   and published LLaVA checkpoints have. 4.57.6 warns and goes on with a random
#   tower, another at each read.
# Expected: those names (other parts keep their old ones), or an error.
# Output seen:
#   5.23.0 wrote 39 tensors of the tower, 0 of them under vision_tower.vision_model
#   5.23.0 reads its own: missing 0, patch embedding as written: True
#   4.57.6 reads: missing 39, unexpected 39, patch embedding as written: False
#   4.57.6 reads again: the same patch embedding: False; projector as written: True
# Exits 0 while this is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

cat >"$tmp/write.py" <<'PY'
import sys
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, __version__

small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
vision = CLIPVisionConfig(**small, projection_dim=16, image_size=8, patch_size=4)
config = LlavaConfig(vision_config=vision, text_config=LlamaConfig(**small, vocab_size=32), image_token_index=31)
LlavaForConditionalGeneration(config).save_pretrained(sys.argv[1])

file = load_file(sys.argv[1] + "/model.safetensors")
tower = [name for name in file if name.startswith("vision_tower.")]
nested = [name for name in tower if name.startswith("vision_tower.vision_model.")]
print(f"{__version__} wrote {len(tower)} tensors of the tower, {len(nested)} of them under vision_tower.vision_model")
model, info = LlavaForConditionalGeneration.from_pretrained(sys.argv[1], output_loading_info=True)
state = model.model.state_dict()
patch = next(tensor for name, tensor in state.items() if name.endswith("patch_embedding.weight"))
written = next(tensor for name, tensor in file.items() if name.endswith("patch_embedding.weight"))
print(f"{__version__} reads its own: missing {len(info['missing_keys'])}, "
      f"patch embedding as written: {patch.equal(written)}")
PY

cat >"$tmp/read.py" <<'PY'
import sys
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration, __version__

file = load_file(sys.argv[1] + "/model.safetensors")
find = lambda tensors, end: next(tensor for name, tensor in tensors.items() if name.endswith(end))
reads = [LlavaForConditionalGeneration.from_pretrained(sys.argv[1], output_loading_info=True) for _ in range(2)]
states, info = [model.state_dict() for model, _ in reads], reads[0][1]
first, second = (find(state, "patch_embedding.weight") for state in states)
print(f"{__version__} reads: missing {len(info['missing_keys'])}, unexpected {len(info['unexpected_keys'])}, "
      f"patch embedding as written: {first.equal(find(file, 'patch_embedding.weight'))}")
projector = find(states[0], "linear_1.weight").equal(find(file, "linear_1.weight"))
print(f"{__version__} reads again: the same patch embedding: {first.equal(second)}; projector as written: {projector}")
PY

python3 -m venv "$tmp/venv"
python="$tmp/venv/bin/python"
"$python" -m pip install --quiet torch==2.13.0 numpy==2.4.6 safetensors==0.8.0 transformers==5.23.0
"$python" "$tmp/write.py" "$tmp/llava" | tee "$tmp/seen"
"$python" -m pip install --quiet transformers==4.57.6
"$python" "$tmp/read.py" "$tmp/llava" | tee -a "$tmp/seen"

cat >"$tmp/stated" <<'TXT'
5.23.0 wrote 39 tensors of the tower, 0 of them under vision_tower.vision_model
5.23.0 reads its own: missing 0, patch embedding as written: True
4.57.6 reads: missing 39, unexpected 39, patch embedding as written: False
4.57.6 reads again: the same patch embedding: False; projector as written: True
TXT
cmp -s "$tmp/seen" "$tmp/stated" || { echo "changed: not what the comment states"; exit 1; }
