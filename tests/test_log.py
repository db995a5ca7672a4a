"""The log of a run: read back from its files, also after kills and on a disk that refuses."""

import io
import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import Accelerator
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.log import RunLog
from vlm.errors import ConfigError, DataError


def run_log(
    folder: Path, screen: io.StringIO | None = None, terminal: bool = False, **settings: Any
) -> RunLog:
    """A log of ten steps, told into a terminal of 200 columns if no screen is given."""
    if screen is None:
        console = Console(file=io.StringIO(), force_terminal=True, width=200)
    else:
        console = Console(file=screen, width=200, force_terminal=terminal)
    usual = {"accelerator": Accelerator(), "total_steps": 10, "trackers": []}
    return RunLog(folder, console=console, **usual | settings)


def tell(log: RunLog, step: int, loss: float = 2.0, **others: Any) -> None:
    """A step of 100 tokens and 8 images in 2 seconds, half a second of it waiting."""
    usual = {"epoch": 0, "learning_rate": 1e-3, "gradient_norm": 0.5, "tokens": 100, "images": 8}
    log.step(step=step, loss=loss, **usual | {"seconds": 2.0, "waited": 0.5} | others)


def rows(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    lines = (folder / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def steps(folder: Path, name: str = "metrics.jsonl") -> list[int]:
    return [row["step"] for row in rows(folder, name)]


def test_each_step_is_a_row(tmp_path: Path) -> None:
    with run_log(tmp_path / "runs" / "new", peak_flops=1000.0) as log:
        tell(log, 1, loss=3.0)
        tell(log, 2, loss=1.0, epoch=1, flops=500.0)
        log.validation(2, 1.5)
    first, second, validation = rows(tmp_path / "runs" / "new")
    assert first.pop("memory") > 0
    assert first == {
        "step": 1,
        "epoch": 0,
        "loss": 3.0,
        "learning_rate": 1e-3,
        "gradient_norm": 0.5,
        "tokens": 100,
        "images": 8,
        "seconds": 2.0,
        "tokens_per_second": 50.0,
        "images_per_second": 4.0,
        "data_wait": 0.25,
    }
    # Not smoothed: the loss is that of the step alone.
    assert (second["loss"], second["epoch"], second["mfu"]) == (1.0, 1, 0.25)
    assert validation == {"step": 2, "validation_loss": 1.5}


def test_a_row_is_in_the_file_before_the_next_step(tmp_path: Path) -> None:
    with run_log(tmp_path) as log:
        for step in (1, 2, 3):
            tell(log, step)
            assert steps(tmp_path)[-1] == step


def test_the_bar_shows_smoothed_values(tmp_path: Path) -> None:
    screen = io.StringIO()
    with run_log(tmp_path, screen, terminal=True, peak_flops=1000.0) as log:
        tell(log, 1, loss=1.0, flops=500.0)
        tell(log, 2, loss=2.0, flops=500.0)
        log.skipped(3, math.inf)
        tell(log, 3, loss=math.nan, seconds=2.0, flops=500.0)
    # Behind the last line, the cursor is shown again.
    shown = screen.getvalue().splitlines()[-2]
    # (0.9 x 1 + 2) / (0.9 + 1): what is not a number does not count.
    assert "loss (smoothed) 1.526" in shown
    assert "50 tokens/s  4.0 images/s  25% waiting for data" in shown
    assert "MFU 25.0%" in shown
    assert "1 skipped" in shown
    assert "GiB" in shown
    assert "3/10" in screen.getvalue()


def test_a_pipe_gets_a_line_for_every_hundredth(tmp_path: Path) -> None:
    screen = io.StringIO()
    with run_log(tmp_path, screen, total_steps=200) as log:
        for step in (1, 2, 3, 4):
            tell(log, step)
    told = [line for line in screen.getvalue().splitlines() if line.startswith("step")]
    assert [line.split()[1] for line in told] == ["2", "4"]


def test_steps_that_are_no_number(tmp_path: Path) -> None:
    with run_log(tmp_path) as log:
        log.skipped(1, math.nan)
        tell(log, 1, loss=math.nan, gradient_norm=math.inf)
        log.validation(1, -math.inf)
    skipped, step, validation = rows(tmp_path)
    assert skipped == {"step": 1, "skipped": "nan"}
    assert (step["loss"], step["gradient_norm"]) == (None, None)
    assert validation["validation_loss"] is None


def test_answers_are_kept_and_told(tmp_path: Path) -> None:
    screen = io.StringIO()
    said = [("cat.png", "What is it?", "A [red]cat\x1b[2J\non grass."), ("", "Is it?", "Yes.")]
    with run_log(tmp_path, screen) as log:
        log.answers(4, said)
        log.answers(5, [(f"data:image/png;base64,{'A' * 999}", "Is it?", "No.")], held_out=True)
    assert rows(tmp_path, "answers.jsonl")[:2] == [
        {"step": 4, "photo": photo, "question": question, "answer": answer}
        for photo, question, answer in said
    ]
    # Neither rich nor the terminal obeys what a model says.
    told = screen.getvalue().splitlines()
    assert told[:2] == [
        "step 4: answers to training samples",
        "  cat.png: What is it? -> A [red]cat[2J on grass.",
    ]
    assert told[3] == "step 5: answers to held-out samples"
    assert max(map(len, told)) <= 300


@pytest.mark.parametrize(
    "torn", [b"", b'{"step": 5, "lo', b"\0\0\0"], ids=["whole", "torn", "zero"]
)
def test_a_resumed_run_has_each_step_once(tmp_path: Path, torn: bytes) -> None:
    with run_log(tmp_path) as log:
        for step in (1, 2, 3, 4):
            tell(log, step, loss=step / 3)
            log.answers(step, [("cat.png", "What?", f"Answer {step}.")])
        log.validation(2, 0.5)
        log.validation(4, 0.4)
    before = [row for row in rows(tmp_path) if row["step"] <= 2]
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    with run_log(tmp_path, first_step=2) as log:
        tell(log, 3, loss=9.0)
    assert rows(tmp_path)[:-1] == before
    assert rows(tmp_path)[-1]["loss"] == 9.0
    assert steps(tmp_path) == [1, 2, 2, 3]
    assert steps(tmp_path, "answers.jsonl") == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "metrics.jsonl"]


def test_resuming_where_the_log_was_deleted(tmp_path: Path) -> None:
    with run_log(tmp_path, first_step=5) as log:
        tell(log, 6)
    assert steps(tmp_path) == [6]


def test_a_fresh_run_begins_the_files_anew(tmp_path: Path) -> None:
    for loss in (1.0, 2.0):
        with run_log(tmp_path) as log:
            tell(log, 1, loss=loss)
            log.answers(1, [("cat.png", "What?", "A cat.")])
    assert [row["loss"] for row in rows(tmp_path)] == [2.0]
    assert steps(tmp_path, "answers.jsonl") == [1]


def test_a_damaged_log_is_not_written_on(tmp_path: Path) -> None:
    text = '{"step": 1}\nnothing\n{"step": 2}\n'
    (tmp_path / "metrics.jsonl").write_text(text, encoding="utf-8")
    with (
        pytest.raises(DataError, match=r"metrics\.jsonl, line 2: not JSON"),
        run_log(tmp_path, first_step=2),
    ):
        pass
    (tmp_path / "metrics.jsonl").write_text('{"loss": 1}\n', encoding="utf-8")
    with (
        pytest.raises(DataError, match=r"line 1: it has no step"),
        run_log(tmp_path, first_step=2),
    ):
        pass


def test_tensorboard_is_the_default(tmp_path: Path) -> None:
    with run_log(tmp_path, trackers=None) as log:
        for step in (1, 2, 3):
            tell(log, step, loss=float(step))
        log.skipped(3, math.nan)
        log.validation(3, 0.5)
        log.answers(3, [("cat.png", "What?", "A cat.")])
    # As after a kill: what was told of step 3 is hidden by what is told now.
    with run_log(tmp_path, trackers=["tensorboard", "tensorboard"], first_step=2) as log:
        tell(log, 3, loss=30.0)
    events = EventAccumulator(str(tmp_path / "trackers" / "vlm"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert {"learning_rate", "tokens_per_second", "memory"} <= set(events.Tags()["scalars"])
    assert "mfu" not in events.Tags()["scalars"]


def test_the_accelerator_can_be_used_after_the_log(tmp_path: Path) -> None:
    accelerator = Accelerator()
    for name in ("align", "instruct"):
        with run_log(tmp_path / name, trackers=None, accelerator=accelerator) as log:
            tell(log, 1)
        accelerator.log({"loss": 5.0}, step=2)
    accelerator.end_training()
    for name in ("align", "instruct"):
        events = EventAccumulator(str(tmp_path / name / "trackers" / "vlm"))
        events.Reload()
        assert [event.value for event in events.Scalars("loss")] == [2.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "no tracker 'tensorbord': there are .*tensorboard, .*wandb"),
        ("aim", "tracker aim is not installed: pip install aim"),
    ],
)
def test_trackers_that_are_not_there(tmp_path: Path, name: str, message: str) -> None:
    with run_log(tmp_path) as log:
        tell(log, 1)
    with pytest.raises(ConfigError, match=message), run_log(tmp_path, trackers=[name]):
        pass
    # The log of the run before is not lost over a wrong word.
    assert steps(tmp_path) == [1]


def test_a_tracker_that_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "trackers").write_text("a file", encoding="utf-8")
    with (
        pytest.raises(ConfigError, match="cannot start the trackers tensorboard: "),
        run_log(tmp_path, trackers=["tensorboard"]),
    ):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    with (
        pytest.raises(DataError, match=r"cannot write .*metrics\.jsonl: Not a directory"),
        run_log(tmp_path / "file" / "run"),
    ):
        pass


def test_a_full_disk(tmp_path: Path) -> None:
    with run_log(tmp_path) as log:
        tell(log, 1)
        size = (tmp_path / "metrics.jsonl").stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
        try:
            with pytest.raises(DataError, match=r"cannot write .*metrics\.jsonl: File too large$"):
                tell(log, 2)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        tell(log, 2)
    assert steps(tmp_path) == [1, 2]


def test_of_two_processes_the_main_one_writes(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys\n"
        "from accelerate import Accelerator\n"
        "from rich.console import Console\n"
        "from tests.test_log import tell\n"
        "from train.log import RunLog\n"
        "from vlm.cli import main\n"
        "def command(words):\n"
        "    accelerator, folder = Accelerator(cpu=True), pathlib.Path(words[0])\n"
        "    with RunLog(folder, accelerator, Console(), total_steps=2, peak_flops=100.0) as log:\n"
        "        tell(log, 1, loss=accelerator.process_index, flops=100.0)\n"
        "        log.note('a note')\n"
        "sys.exit(main(command=command))\n"
    )
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launch, str(tmp_path / "program.py"), str(tmp_path / "run")],
        env={**os.environ, "OMP_NUM_THREADS": "1"} | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path / "run")
    # 50 operations a second, of the 100 that each of the two can do.
    assert (row["loss"], row["mfu"]) == (0, 0.25)
    assert done.stdout.count("a note") == 1
