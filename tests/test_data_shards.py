"""WebDataset shards, and photos in general: where their bytes are read from."""

import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest

from tests import tiny
from tests.data_folders import asked, captions, png, read, reasons, save_photos
from vlm.data.photos import FilePhoto, TarPhoto, decode, digest
from vlm.data.shards import expand
from vlm.data.source import Columns
from vlm.errors import DataError, ImageError
from vlm.images import MAX_BYTES


def save_shard(file: Path, members: dict[str, bytes | str], mode: str = "w") -> Path:
    with tarfile.open(file, mode) as tar:
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file


CAT = {"0001.png": png(0), "0001.txt": "a cat\na kitten\n", "0001.json": '{"caption": "not me"}'}
DOG = {"sub/0001.json": json.dumps({"caption": ["a dog"]}), "sub/0001.PNG": png(1)}


def test_photos_are_read_where_they_lie(tmp_path: Path) -> None:
    shard = save_shard(tmp_path / "data", {"./notes.md": "x", **CAT, **DOG})
    before = sorted(tmp_path.iterdir())
    found = read(shard, questions=["What?"])
    assert found.format == "shards"
    assert [sample.where for sample in found.usable] == [f"{shard}:0001", f"{shard}:sub/0001"]
    assert [sample.conversations for sample in found.usable] == [
        captions("a cat\na kitten"),
        captions("a dog"),
    ]
    assert found.usable[0].questions == ("What?",)
    assert reasons(found, tmp_path) == [("data:notes", "missing image", ".md")]
    for number, sample in enumerate(found.usable):
        (photo,) = pickle.loads(pickle.dumps(sample.photos))
        assert photo.data() == png(number)
        assert digest(photo) == digest(sample.photos[0])
        assert decode(photo).tobytes() == tiny.photo(number).tobytes()
    assert sorted(tmp_path.iterdir()) == before


def test_long_names(tmp_path: Path) -> None:
    name = "é" * 90 + "/" + "x" * 120
    (sample,) = read(
        save_shard(tmp_path / "data", {f"{name}.png": png(3), f"{name}.txt": "a"})
    ).usable
    assert sample.where == f"{tmp_path / 'data'}:{name}"
    assert sample.photos[0].data() == png(3)


def test_questions_are_in_the_json(tmp_path: Path) -> None:
    record = {"q": "Who?", "a": ["cat", "dog", "dog"], "caption": "a cat"}
    members = {"1.png": png(0), "1.txt": "a cat", "1.json": json.dumps(record)}
    columns = Columns(question="q", answer="a")
    (sample,) = read(
        save_shard(tmp_path / "data", members), columns=columns, instruction="!"
    ).usable
    assert sample.conversations == (asked("Who?\n!", "dog"),)


def test_a_named_column_of_photos_changes_nothing_in_a_shard(tmp_path: Path) -> None:
    said = {"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "Me."}]}
    said["image"] = "whatever it was called"
    shard = save_shard(tmp_path / "data", {"1.png": png(0), "1.json": json.dumps(said)})
    (sample,) = read(shard, columns=Columns(image="photo")).usable
    assert sample.conversations == (asked("Who?", "Me."),)
    assert sample.photos[0].data() == png(0)


def test_a_folder_and_patterns_of_shards(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        members = {f"{number}.png": png(number), f"{number}.txt": f"{number} cats"}
        save_shard(tmp_path / f"part-{number:03d}.tar", members)
    everything = [captions(f"{number} cats") for number in (8, 9, 10)]
    for pattern in ("", "part-*.tar", "part-{008..010}.tar", "part-0[01]?.tar"):
        found = read(f"{tmp_path}/{pattern}")
        assert found.format == "shards"
        assert [sample.conversations for sample in found.usable] == everything
    with pytest.raises(DataError, match=r"^no tar shard .*/part-011\.tar$"):
        read(f"{tmp_path}/part-{{008..011}}.tar")
    with pytest.raises(DataError, match=r"^no tar shard .*/none-\*\.tar$"):
        read(f"{tmp_path}/none-*.tar")


def test_braces() -> None:
    assert expand("a.tar") == ["a.tar"]
    assert expand("{9..11}") == ["9", "10", "11"]
    assert expand("{0..1}/{00..01}.tar") == ["0/00.tar", "0/01.tar", "1/00.tar", "1/01.tar"]
    assert expand("{a..b}") == ["{a..b}"]


@pytest.mark.parametrize(
    ("members", "reason", "detail"),
    [
        ({"1.png": b"", "1.cls": "3"}, "no text beside the photo", "found .png, .cls"),
        ({"1.txt": "a cat"}, "missing image", ".txt"),
        ({"1.png": b"", "1.jpg": b"", "1.txt": "a"}, "several images", ".png, .jpg, .txt"),
        (
            {"1.png": b"", "1.PNG": b"", "1.txt": "a"},
            "several members of one ending",
            "1.png, 1.PNG, 1.txt",
        ),
        (
            {"1.png": b"", "1.txt": "a", "1.Txt": "b"},
            "several members of one ending",
            "1.png, 1.txt, 1.Txt",
        ),
        (
            {"1.png": b"", "1.json": '{"cat": 3}'},
            "key missing in the JSON",
            "1.json: captions, caption or text (or question with answers or answer) missing; "
            "found cat, image; `columns:` says which is which",
        ),
        ({"1.png": b"", "1.txt": "\n \n"}, "blank caption", ""),
        ({"1.png": b"", "1.json": '{"caption": ""}'}, "blank caption", ""),
        ({"1.png": b"", "1.json": '{"caption": 3}'}, "caption is not text", "3"),
        ({"1.png": b"", "1.json": "[]"}, "text is not JSON", "data:1.json: no object"),
        (
            {"1.png": b"", "1.txt": b"\xff"},
            "caption is not text",
            "data:1.txt: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        ),
        (
            {"1.png": b"", "1.json": "{"},
            "text is not JSON",
            "data:1.json: not JSON: Expecting property name enclosed in double quotes, at its end",
        ),
        (
            {"1.png": b"", "1.txt": "x" * (1 << 20) + "x"},
            "text is too large",
            "data:1.txt: 1048577 bytes",
        ),
    ],
)
def test_what_is_skipped(
    tmp_path: Path, members: dict[str, bytes | str], reason: str, detail: str
) -> None:
    found = read(save_shard(tmp_path / "data", CAT | members))
    assert len(found.usable) == 1
    assert reasons(found, tmp_path) == [("data:1", reason, detail)]


def test_what_a_json_may_hold(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWho?"}, {"from": "gpt", "value": "A cat."}]
    rows = {
        "1": {"conversations": turns},
        "2": {"question": "Which?", "choices": ["cat", "dog"], "answer": 1},
        "3": {"caption": "['a cat']", "url": "http://a.b/c d", "status": "success", "width": 30},
        "4": {"caption": "a cat", "tools": [{"name": "look"}], "note": "two words"},
    }
    members = {f"{name}.json": json.dumps(row) for name, row in rows.items()}
    members |= {f"{name}.png": png(0) for name in rows}
    shard = save_shard(tmp_path / "data", dict(sorted(members.items())))
    found = read(shard)
    first, second, third, fourth = (sample.conversations for sample in found.usable)
    assert first == (asked("Who?", "A cat."),)
    assert second[0][1].parts == ("B",)
    assert (third, fourth) == (captions("['a cat']"), captions("a cat"))
    assert found.dropped == {"unread key 'tools'": 1, "unread key 'note'": 1}


def test_a_text_beside_a_json(tmp_path: Path) -> None:
    both = {"1.png": png(0), "1.caption": "a cat\r\nsits", "1.json": '{"alt": "a pet"}'}
    shard = save_shard(tmp_path / "data", both)
    assert read(shard).usable[0].conversations == captions("a cat\nsits")
    assert read(shard, columns=Columns(text="alt")).usable[0].conversations == captions("a pet")
    boxes = save_shard(tmp_path / "boxes", both | {"1.caption": "0 0.5 0.5 0.25 0.3"})
    with pytest.raises(DataError, match="1 YOLO's boxes, not a caption"):
        read(boxes)


def test_shards_of_img2dataset(tmp_path: Path) -> None:
    save_shard(tmp_path / "00000.tar", CAT)
    for name in ("00000.parquet", "00000_stats.json"):
        (tmp_path / name).touch()
    found = read(tmp_path)
    assert (found.format, len(found.usable)) == ("shards", 1)


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    members = {"1.png": png(0), "1.txt": mark + b"a cat"}
    members |= {"2.png": png(1), "2.json": mark + b'{"caption": "a dog"}'}
    found = read(save_shard(tmp_path / "data", members))
    assert [sample.conversations for sample in found.usable] == [
        captions("a cat"),
        captions("a dog"),
    ]


def test_shards_in_folders_that_links_lead_to(tmp_path: Path) -> None:
    for folder, name in (("data", "B.TAR"), ("elsewhere", "a.tar")):
        (tmp_path / folder).mkdir()
        save_shard(tmp_path / folder / name, CAT)
    (tmp_path / "data/link").symlink_to(tmp_path / "elsewhere")
    assert [sample.where for sample in read(tmp_path / "data").usable] == [
        f"{tmp_path}/data/B.TAR:0001",
        f"{tmp_path}/data/link/a.tar:0001",
    ]


@pytest.mark.parametrize("damage", ["between members", "in a header", "a header", "the end"])
def test_a_shard_that_is_damaged_or_cut_off(tmp_path: Path, damage: str) -> None:
    shard = save_shard(tmp_path / "data", CAT | DOG)
    with tarfile.open(shard) as tar:
        place = tar.getmember("sub/0001.json").offset
        for member in tar:
            end = member.offset_data + -(-member.size // 512) * 512
    whole = shard.read_bytes()
    damaged = {
        "between members": whole[:place],
        "in a header": whole[: place + 100],
        "a header": whole[: place + 148] + b"garbage\0" + whole[place + 156 :],
        "the end": whole[:end],
    }
    shard.write_bytes(damaged[damage])
    with pytest.raises(DataError) as error:
        read(shard)
    assert str(error.value) == (
        f"{shard} is damaged or cut off at byte {end if damage == 'the end' else place}: neither a "
        "member nor the end of the archive is there; get it again"
    )
    # One block of zeros is enough of an end.
    shard.write_bytes(whole[: end + 512])
    assert len(read(shard).usable) == 2


def test_shards_joined_to_one_file(tmp_path: Path) -> None:
    first, second = save_shard(tmp_path / "first", CAT), save_shard(tmp_path / "second", DOG)
    joined = tmp_path / "joined"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(DataError) as error:
        read(joined)
    with tarfile.open(first) as tar:
        end = tar.getmembers()[-1].offset_data + 512
    assert str(error.value) == (
        f"{joined} is damaged or cut off at byte {end}: the archive ends there, and more follows; "
        "give each of several archives a file of its own"
    )


def test_shards_that_cannot_be_read(tmp_path: Path) -> None:
    shard = save_shard(tmp_path / "packed", CAT, mode="w:gz")
    with pytest.raises(DataError, match=r"^cannot read .*packed: .*: shards are uncompressed tar$"):
        read(shard)
    whole = save_shard(tmp_path / "data", {"1.png": bytes(5000), "1.txt": "a"}).read_bytes()
    (tmp_path / "data").write_bytes(whole[:3000])
    with pytest.raises(DataError, match=r"data: unexpected end of data: shards are uncompressed"):
        read(tmp_path / "data")


def test_photos_that_cannot_be_read(tmp_path: Path) -> None:
    gone = FilePhoto(tmp_path / "none.png")
    with pytest.raises(ImageError, match=r"^cannot read '.*none\.png': No such file or directory$"):
        digest(gone)
    (tmp_path / "broken.png").write_bytes(png(0)[:40])
    with pytest.raises(ImageError, match=r"^cannot read '.*broken\.png': not an image, or damaged"):
        decode(FilePhoto(tmp_path / "broken.png"))
    shard = save_shard(tmp_path / "data", {"1.png": b"", "1.txt": "a"})
    with pytest.raises(ImageError, match=r"^cannot read '.*data:1\.png': it is empty$"):
        decode(read(shard).usable[0].photos[0])
    with pytest.raises(ImageError, match=r"none:1\.png': No such file or directory$"):
        TarPhoto(tmp_path / "none", "1.png", 512, 10).data()


def test_a_photo_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    with file.open("wb") as opened:
        opened.truncate(MAX_BYTES + 1000)
    for photo in (FilePhoto(file), TarPhoto(file, "large.png", 10, MAX_BYTES + 500)):
        assert len(photo.data()) == MAX_BYTES + 1
        with pytest.raises(ImageError, match="it is larger than"):
            decode(photo)


def test_equal_photos_have_equal_digests(tmp_path: Path) -> None:
    save_photos(tmp_path, "a.png", "b.png")
    shard = save_shard(
        tmp_path / "data", {"1.png": (tmp_path / "a.png").read_bytes(), "1.txt": "a"}
    )
    (in_tar,) = read(shard).usable[0].photos
    assert digest(in_tar) == digest(FilePhoto(tmp_path / "a.png"))
    assert digest(in_tar) != digest(FilePhoto(tmp_path / "b.png"))
