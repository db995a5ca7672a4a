"""easy-VQA as it is unpacked, of the package itself."""

import json
import sys
from pathlib import Path

import pytest

from train.embedded.easyvqa import kind_of, main
from vlm.errors import DataError, VLMError


def test_kinds() -> None:
    assert [kind_of(answer) for answer in ("triangle", "no", "teal")] == [
        "shape",
        "yes/no",
        "colour",
    ]


def test_the_whole_data_set_is_unpacked(tmp_path: Path) -> None:
    pytest.importorskip("easy_vqa")
    main(tmp_path / "easy")
    lines = (tmp_path / "easy" / "questions.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert sum(record["split"] == "train" for record in records) == 38575
    assert sum(record["split"] == "test" for record in records) == 9673
    photos = {path.name for path in (tmp_path / "easy" / "images").iterdir()}
    assert len(photos) == 5000
    assert {record["image"] for record in records} <= photos
    assert {record["kind"] for record in records} == {"yes/no", "shape", "colour"}
    assert records[0].keys() == {"image", "question", "answers", "kind", "split"}
    assert all(record["image"].startswith(record["split"]) for record in records)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    pytest.importorskip("easy_vqa")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*file"):
        main(tmp_path / "file")


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "easy_vqa", None)
    with pytest.raises(VLMError, match=r"^easy-vqa needs the package: pip install 'vlm\[eval\]'$"):
        main(tmp_path)
