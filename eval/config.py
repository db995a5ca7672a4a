"""Every setting of an evaluation. The typed config is the command line."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vlm.data.formats import require_there
from vlm.data.source import Columns, DataSource, Format
from vlm.errors import ConfigError
from vlm.settings import WORDS


def is_own(name: str) -> bool:
    """Whether it is data of one's own: a file, a pattern of files or the id of a data set has one
    of these marks."""
    return os.path.exists(name) or re.search(r"[./*?\[{]", name) is not None


@dataclass
class EvalConfig:
    """Ask a model the questions of benchmarks, and score its answers.

    Args:
        benchmarks: their names, or your own captions or questions: whatever `data: [{path: ...}]`
            of training may be; with `compare`, the run to compare with. None shows which there are.
        model: who answers: `embedded`, a checkpoint folder, a LLaVA folder or hub id (LLaVA-1.5 in
            its published words, Vicuna's with their system message); null is nobody, for
            `baselines` or an endpoint alone.
        data: folder that holds a folder for each benchmark.
        hub: take the questions from the Hugging Face hub instead.
        split: that is asked; each benchmark's own choice without it.
        limit: only the first questions; all of them without it.
        instruction: a line behind each question of your own data, such as "Answer the question
            using a single word or phrase."; benchmarks have their own.
        format: of your own data; without it, what is in it.
        images: folder that the image paths of your own data start from.
        outside: photos of your own data may lie outside that folder, wherever it says.
        annotations: VQA v2's answers, beside its questions as a file of your own.
        subset: of your own data on the hub.
        columns: names of the columns of your own tables, such as `--columns.question q`.
        caption_per_line: of a folder of your own photos with text files, as in training.
        load_in: the language model's weights in 4 or 8 bits, through bitsandbytes.
        device: such as `cpu` or `cuda:1`; null is CUDA where there is one, else the CPU.
        dtype: of the weights; null is bfloat16 on CUDA and float32 on the CPU, where an adapted
            SmolLM2 stays in its 4-bit blocks.
        batch_size: questions answered at a time, by each process.
        beams: above 1 searches for the most probable answer (beam search).
        baselines: also ask the model without the photos, and always give the answer that is right
            most often.
        endpoint: OpenAI-compatible address, such as http://localhost:8000/v1, whose model is asked
            too; its key is read from OPENAI_API_KEY.
        name: of the endpoint's model.
        concurrency: requests to the endpoint under way at a time.
        prices: dollars for a million tokens of the endpoint's input and output, such as 2.5,10.
        compare: folder of a run, OUTPUT/BENCHMARK/WHO, to compare with another.
        output: folder of all runs; one that was killed is resumed.
        json: print JSON instead of tables.
    """

    benchmarks: list[str] = field(default_factory=list, metadata=WORDS)
    model: str | None = "embedded"
    data: Path = Path()
    hub: bool = False
    split: str | None = None
    limit: int | None = None
    instruction: str | None = None
    format: Format | None = None
    images: Path | None = None
    outside: bool = False
    annotations: Path | None = None
    subset: str | None = None
    columns: Columns = field(default_factory=Columns)
    caption_per_line: bool = False
    load_in: Literal["4bit", "8bit"] | None = None
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    batch_size: int = 32
    beams: int = 1
    baselines: bool = False
    endpoint: str | None = None
    name: str | None = None
    concurrency: int = 8
    prices: str | None = None
    compare: str | None = None
    output: Path = Path("runs/eval")
    json: bool = False

    def check(self) -> None:
        """A DataError for data of one's own that is not there."""
        for name in [] if self.compare else self.benchmarks:
            if is_own(name):
                require_there(DataSource(name, self.format))

    def __post_init__(self) -> None:
        for name in ("limit", "batch_size", "beams", "concurrency"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, not {value}")
        if (self.endpoint is None) != (self.name is None):
            raise ConfigError("--endpoint and --name go together: an address and the model there")
        if self.prices is not None and self.endpoint is None:
            raise ConfigError("--prices goes with --endpoint: nobody else counts tokens")
