"""One exported LLaVA folder, read by several versions of transformers, each in an environment of
its own: the same greedy answer, no tensor missing, none left over.

    python tests/slow/export_versions.py [4.49.0 4.57.6 5.24.0]

The language model is SmolLM2-135M; the tower, a small CLIP, and the projector are random, which is
all the same to a comparison. Each version is installed with pip into a folder that is removed.
"""

import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, CLIPVisionModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import vlm
from vlm.config import ModelConfig, VisionConfig
from vlm.sources import quiet_loading

VERSIONS = ("4.49.0", "4.57.6", "5.24.0")
PHOTO = Path(__file__).parents[2] / "examples" / "chelsea.png"
QUESTION = "What is in the picture?"
TOKENS = 24
# Its own packages are all that it finds: it runs isolated.
READER = """
import json, sys, tokenizers, torch, transformers
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

folder, photo, question, tokens = sys.argv[1:]
processor = AutoProcessor.from_pretrained(folder)
model, report = LlavaForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
content = [{"type": "image"}, {"type": "text", "text": question}]
text = processor.apply_chat_template(
    [{"role": "user", "content": content}], add_generation_prompt=True
)
inputs = processor(images=Image.open(photo).convert("RGB"), text=text, return_tensors="pt")
ids = model.float().eval().generate(**inputs, do_sample=False, max_new_tokens=int(tokens))
answer = processor.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
print(json.dumps({
    "versions": [module.__version__ for module in (transformers, tokenizers, torch)],
    "different": sorted({*report["missing_keys"], *report["unexpected_keys"]}),
    "prompt": inputs["input_ids"].shape[1],
    "answer": answer,
}))
"""


def write_tower(folder: Path) -> None:
    """A small CLIP with random weights, of which the last layer but one is taken, as in LLaVA."""
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=112,
        patch_size=16,
    )
    with quiet_loading():
        CLIPVisionModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 112}, crop_size=112).save_pretrained(folder)


def read_with(version: str, exported: Path, environment: Path) -> dict[str, object]:
    """What a version of transformers reads and answers."""
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    torch_here = torch.__version__.split("+")[0]
    packages = [f"transformers=={version}", f"torch=={torch_here}", "pillow", "jinja2"]
    subprocess.run([python, "-I", "-m", "pip", "install", "--quiet", *packages], check=True)
    arguments = [exported, PHOTO, QUESTION, str(TOKENS)]
    told = subprocess.run(
        [python, "-I", "-c", READER, *arguments], check=True, stdout=subprocess.PIPE
    )
    return json.loads(told.stdout.splitlines()[-1])


def main(versions: list[str]) -> int:
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_tower(folder / "clip")
        tower = VisionConfig(source=str(folder / "clip"), layers=[-2])
        vlm.build(ModelConfig(vision=tower), "cpu").export_llava(folder / "llava", torch.bfloat16)
        model = vlm.load(folder / "llava", device="cpu")
        ours = model.chat(QUESTION, images=[PHOTO], max_tokens=TOKENS)
        print(f"vlm: {ours!r}", flush=True)
        same = True
        for version in versions:
            found = read_with(version, folder / "llava", folder / version)
            same &= (found["answer"], found["different"]) == (ours, [])
            print(json.dumps(found), flush=True)
        print("the same answer" if same else "DIFFERENT answers")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(VERSIONS)))
