"""Vision-feature cache: what the tower gives, computed once, whoever writes or dies meanwhile."""

import io
import multiprocessing
import os
import pickle
import resource
import signal
import tarfile
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from tests import tiny
from tests.data_folders import read
from train import features
from train.features import FeatureCache, FillReport, stamp
from vlm.config import VisionConfig
from vlm.data.photos import FilePhoto, Photo, RowPhoto, TarPhoto, decode
from vlm.errors import DataError
from vlm.tower import VisionTower

CPU = torch.device("cpu")
RECORD = tiny.PATCHES * 24 * 2
"""Bytes of the features of a photo."""


def make_photos(folder: Path, count: int, first: int = 0) -> list[Photo]:
    photos = []
    for number in range(first, first + count):
        path = folder / f"{number}.png"
        tiny.photo(number).save(path)
        photos.append(FilePhoto(path))
    return photos


def open_cache(
    folder: Path | None,
    tower: VisionTower | None = None,
    max_bytes: int = 10**9,
    dtype: torch.dtype = torch.float16,
    **vision: object,
) -> FeatureCache:
    return FeatureCache(
        folder, tower or tiny.clip_tower(), VisionConfig("tiny", **vision), max_bytes, dtype
    )


def fill(cache: FeatureCache, photos: list[Photo], **share: int) -> FillReport:
    return cache.fill(photos, CPU, Console(quiet=True), **share)


def on_the_fly(photo: Photo, tower: VisionTower | None = None) -> Tensor:
    tower = tower or tiny.clip_tower()
    return tower(tower.preprocessing(decode(photo))[None])[0]


def assert_whole(cache: FeatureCache, photos: list[Photo]) -> None:
    for photo in photos:
        torch.testing.assert_close(
            cache.get(photo).float(), on_the_fly(photo), rtol=2e-3, atol=1e-3
        )


def count_passes(tower: VisionTower) -> list[int]:
    """Sizes of the batches that pass through the tower from now on."""
    sizes: list[int] = []
    tower.register_forward_hook(lambda _, inputs, __: sizes.append(len(inputs[0])))
    return sizes


def data_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.features"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "features"


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    return make_photos(tmp_path, 20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_features_are_what_the_tower_gives_up_to_the_dtype(
    folder: Path, photos: list[Photo], dtype: torch.dtype
) -> None:
    tower = tiny.clip_tower()
    sizes = count_passes(tower)
    cache = open_cache(folder, tower, dtype=dtype)
    report = fill(cache, photos)
    assert (report.encoded, report.found, report.left_out, report.broken) == (20, 0, 0, 0)
    assert report.bytes == 20 * RECORD == data_bytes(folder)
    assert sizes == [8, 8, 4]
    for photo in photos:
        features, expected = cache.get(photo), on_the_fly(photo)
        assert features.dtype == dtype
        # Half a step of the dtype, and what batches of other sizes round differently.
        step = torch.finfo(dtype).eps
        torch.testing.assert_close(features.float(), expected, rtol=0.6 * step, atol=1e-5)


def test_of_many_photos_some_tell_how_many_are_missing(
    folder: Path, photos: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = open_cache(folder)
    fill(cache, photos[:12])
    # Of places 0, 3 .. 18, those from 12 on.
    monkeypatch.setattr(features, "LOOKED_AT", 7)
    assert cache.missing(photos) == 3 * 3
    monkeypatch.setattr(features, "LOOKED_AT", 1)
    assert cache.missing(photos[12:]) == 8


def test_only_photos_that_are_new_are_encoded(folder: Path, photos: list[Photo]) -> None:
    fill(open_cache(folder), photos[:12])
    tower = tiny.clip_tower()
    sizes = count_passes(tower)
    cache = open_cache(folder, tower)
    assert cache.get(photos[15]) is None
    assert cache.missing([*photos, *photos]) == 8
    report = fill(cache, photos)
    assert (report.encoded, report.found) == (8, 12)
    assert sizes == [8]
    assert cache.missing(photos) == 0
    assert fill(cache, photos).encoded == 0
    assert_whole(cache, photos)


def test_the_same_photo_under_two_names_is_stored_once(
    tmp_path: Path, folder: Path, photos: list[Photo]
) -> None:
    copies = []
    for number in range(2):
        copies.append(FilePhoto(tmp_path / f"copy{number}.png"))
        copies[number].path.write_bytes(photos[0].data())
    cache = open_cache(folder)
    report = fill(cache, [photos[0], copies[0]])
    assert (report.encoded, report.found) == (1, 1)
    # Never filled under this name: told by its bytes.
    assert torch.equal(cache.get(copies[1]), cache.get(photos[0]))
    report = fill(cache, [copies[1]])
    assert (report.encoded, report.found) == (0, 1)
    assert data_bytes(folder) == RECORD


def test_a_photo_that_changes_is_another_and_one_that_is_touched_is_not(
    folder: Path, photos: list[Photo]
) -> None:
    cache = open_cache(folder)
    fill(cache, photos[:2])
    tiny.photo(99).save(photos[0].path)
    os.utime(photos[1].path, ns=(1, 1))
    assert cache.get(photos[0]) is None
    report = fill(cache, photos[:2])
    assert (report.encoded, report.found) == (1, 1)
    assert_whole(cache, photos[:2])


def test_photos_in_tar_shards_and_tables_are_known_again_without_being_read(
    tmp_path: Path, folder: Path, photos: list[Photo]
) -> None:
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for photo in photos[:3]:
            tar.add(photo.path, photo.path.name)
    with tarfile.open(tmp_path / "shard.tar") as tar:
        members = [
            TarPhoto(tmp_path / "shard.tar", one.name, one.offset_data, one.size) for one in tar
        ]
    cells = [{"bytes": photo.data(), "path": None} for photo in photos[3:6]]
    table = datasets.Dataset.from_dict({"image": cells})
    table = table.with_format("arrow")
    rows = [RowPhoto("table", table, "image", row) for row in range(3)]
    turned = table.select([2, 1, 0])
    together = datasets.Dataset.from_dict({"image": [cells]}).with_format("arrow")
    listed = [RowPhoto("list", together, "image", 0, place) for place in range(3)]
    cache = open_cache(folder)
    assert fill(cache, [*members, *rows]).encoded == 6
    assert cache.missing([*members, *rows]) == 0
    assert_whole(cache, [*members, *rows, *listed, RowPhoto("turned", turned, "image", 0)])
    assert {stamp(photo) for photo in listed}.isdisjoint(map(stamp, rows))
    assert len({stamp(photo) for photo in listed}) == 3


def test_files_that_a_table_names_are_known_by_their_own_change(
    tmp_path: Path, folder: Path, photos: list[Photo]
) -> None:
    cells = [{"bytes": None, "path": str(photo.path)} for photo in photos[:2]]
    cells.append({"bytes": photos[2].data(), "path": str(photos[0].path)})
    columns = {"image": cells, "caption": ["a cat"] * 3}
    datasets.Dataset.from_dict(columns).save_to_disk(tmp_path / "table")

    def named() -> list[Photo]:
        return [sample.photos[0] for sample in read(tmp_path / "table").usable]

    cache = open_cache(folder)
    assert fill(cache, named()).encoded == 3
    assert cache.missing(named()) == 0
    tiny.photo(99).save(photos[0].path)
    assert cache.missing(named()) == 1
    assert fill(cache, named()).encoded == 1
    assert_whole(cache, named())


def test_names_that_are_not_utf_8(tmp_path: Path, folder: Path, photos: list[Photo]) -> None:
    names = [b"caf\xe9.png", b"caf\\udce9.png", "café.png".encode()]
    strange = [FilePhoto(tmp_path / os.fsdecode(name)) for name in names]
    for photo, source in zip(strange, photos, strict=False):
        photo.path.write_bytes(source.data())
        os.utime(photo.path, ns=(1, 1))
    cache = open_cache(folder)
    assert fill(cache, strange).encoded == 3
    assert cache.missing(strange) == 0
    assert_whole(cache, strange)
    assert len({stamp(photo) for photo in strange}) == 3


def test_broken_photos_are_counted_and_the_others_encoded(
    folder: Path, photos: list[Photo]
) -> None:
    photos[2].path.write_bytes(b"not an image")
    photos[3].path.unlink()
    cache = open_cache(folder)
    report = fill(cache, photos)
    assert (report.encoded, report.broken) == (18, 2)
    assert cache.get(photos[2]) is None
    assert cache.get(photos[3]) is None
    assert_whole(cache, photos[4:])


def test_features_are_read_without_a_warning_and_are_the_readers_own(
    folder: Path, photos: list[Photo]
) -> None:
    cache = open_cache(folder)
    fill(cache, photos)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = cache.get(photos[0])
    expected = one.clone()
    one.zero_()
    assert torch.equal(open_cache(folder).get(photos[0]), expected)


def test_an_open_cache_sees_what_another_process_adds(folder: Path, photos: list[Photo]) -> None:
    early, late = open_cache(folder), open_cache(folder)
    fill(early, photos[:3])
    assert_whole(late, photos[:3])
    fill(early, photos[3:])
    assert_whole(late, photos)


class Cached(torch.utils.data.Dataset):
    def __init__(self, cache: FeatureCache, photos: list[Photo]) -> None:
        self.cache, self.photos = cache, photos

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, place: int) -> Tensor:
        return self.cache.get(self.photos[place])


def test_loader_workers_read_the_cache(folder: Path, photos: list[Photo]) -> None:
    cache = open_cache(folder)
    fill(cache, photos)
    assert_whole(cache, photos)
    (batch,) = DataLoader(Cached(cache, photos), batch_size=20, num_workers=1)
    expected = torch.stack([cache.get(photo) for photo in photos])
    assert torch.equal(batch, expected)
    sent = pickle.dumps(Cached(cache, photos))
    assert len(sent) < 10_000
    assert torch.equal(torch.stack(list(pickle.loads(sent))), expected)


def test_many_threads_read_the_cache(folder: Path, photos: list[Photo]) -> None:
    cache = open_cache(folder)
    fill(cache, photos)
    with ThreadPoolExecutor(16) as executor:
        found = list(executor.map(cache.get, photos * 200))
    assert all(torch.equal(one, cache.get(photos[n % len(photos)])) for n, one in enumerate(found))


def test_ranks_fill_their_shares_and_see_all(folder: Path, photos: list[Photo]) -> None:
    ranks = [open_cache(folder) for _ in range(3)]
    reports = [fill(cache, photos, rank=rank, world=3) for rank, cache in enumerate(ranks)]
    assert [report.encoded for report in reports] == [7, 7, 6]
    for cache in ranks:
        assert_whole(cache, photos)


def fill_in_a_process(folder: Path, photos: list[Photo], dies_at: int | None = None) -> None:
    torch.set_num_threads(1)
    fsync, calls = os.fsync, iter(range(1, 1000))

    def die(descriptor: int) -> None:
        if next(calls) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = die
    fill(open_cache(folder), photos)


def processes(*arguments: tuple) -> list[multiprocessing.Process]:
    """Processes of their own that fill at once, after they have ended."""
    # They start from a process that has imported what they need, once for all of them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.test_features"])
    started = [context.Process(target=fill_in_a_process, args=one) for one in arguments]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    return started


def test_two_processes_at_once_leave_one_whole_cache(tmp_path: Path, folder: Path) -> None:
    photos = make_photos(tmp_path, 150)
    ended = processes((folder, photos), (folder, photos))
    assert [process.exitcode for process in ended] == [0, 0]
    cache = open_cache(folder)
    assert cache.missing(photos) == 0
    assert data_bytes(folder) == 150 * RECORD
    assert_whole(cache, photos)


def test_a_process_killed_while_it_writes_leaves_a_usable_cache(tmp_path: Path) -> None:
    # Files are synced in this order: tower.json, its folder twice, then the data of each batch. So
    # one process dies with its first batch written, the other with its second, neither of them in
    # the index yet.
    photos = make_photos(tmp_path, 80)
    moments = {tmp_path / "first": 4, tmp_path / "second": 5}
    ended = processes(*((folder, photos, at) for folder, at in moments.items()))
    assert [process.exitcode for process in ended] == [-signal.SIGKILL] * 2
    for folder, whole in zip(moments, (0, 64), strict=True):
        assert data_bytes(folder) > whole * RECORD
        cache = open_cache(folder)
        there = [photo for photo in photos if cache.get(photo) is not None]
        assert len(there) == whole
        assert_whole(cache, there)
        report = fill(cache, photos)
        assert (report.encoded, report.found) == (80 - whole, whole)
        assert data_bytes(folder) == 80 * RECORD
        assert_whole(cache, photos)


def test_a_full_disk_is_one_line_and_leaves_what_was_whole(
    folder: Path, photos: list[Photo]
) -> None:
    cache = open_cache(folder)
    fill(cache, photos[:4])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (data_bytes(folder) + RECORD // 2, hard))
    try:
        with pytest.raises(DataError) as raised:
            fill(cache, photos)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(raised.value) == (
        f"cannot use the feature cache {folder}: File too large; make room, delete it or "
        "choose another folder, or train with the cache off"
    )
    assert_whole(cache, photos[:4])
    assert fill(cache, photos).encoded == 16
    assert_whole(cache, photos)


def test_what_does_not_fit_is_not_cached(folder: Path, photos: list[Photo]) -> None:
    cache = open_cache(folder, max_bytes=5 * RECORD + 1)
    report = fill(cache, photos)
    assert (report.encoded, report.left_out) == (5, 15)
    assert data_bytes(folder) == 5 * RECORD
    there = [photo for photo in photos if cache.get(photo) is not None]
    assert len(there) == 5
    assert_whole(cache, there)
    report = fill(cache, photos)
    assert (report.encoded, report.found, report.left_out) == (0, 5, 15)
    decided, reason = cache.decide("auto", photos, passes=100.0)
    assert not decided
    assert reason.endswith("the cache may take 0.0 MB more (cache_gb)")


def test_a_cache_of_another_tower_is_refused_with_what_differs(
    folder: Path, photos: list[Photo]
) -> None:
    fill(open_cache(folder, layers=[-2]), photos)
    with pytest.raises(DataError) as raised:
        open_cache(folder, tiny.clip_tower([-1]), layers=[-1], dtype=torch.bfloat16)
    assert str(raised.value) == (
        f"{folder} is a cache of another tower: layers is [-2] there, [-1] here, dtype is float16 "
        "there, bfloat16 here; choose another folder or delete it"
    )
    other = tiny.clip_tower()
    with torch.no_grad():
        next(other.parameters()).add_(1)
    with pytest.raises(DataError, match=r"another tower: weights is \w+ there, \w+ here; choose"):
        open_cache(folder, other, layers=[-2])


def test_every_difference_of_towers_is_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLM_CACHE", str(tmp_path))
    changed, padded = tiny.clip_tower(), tiny.clip_tower()
    with torch.no_grad():
        next(changed.parameters()).add_(1)
    padded.preprocessing = tiny.Preprocessing(32, "pad", (0.5,) * 3, (0.5,) * 3)
    caches = [
        open_cache(None),
        open_cache(None, revision="v2"),
        open_cache(None, layers=[-2]),
        open_cache(None, dtype=torch.bfloat16),
        open_cache(None, tiny.clip_tower(select="full"), select="full"),
        open_cache(None, changed),
        open_cache(None, padded),
    ]
    assert len({cache.file.folder for cache in caches}) == len(caches)
    assert open_cache(None).file.folder == caches[0].file.folder


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, photos: list[Photo]) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"is no feature cache: it has other files and no tower\."):
        open_cache(tmp_path)
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(DataError, match=r"cannot use the feature cache .*png: .*; make room, "):
        open_cache(photos[0].path)


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ("tower.json", r"tower\.json is damaged: delete .*features$"),
        ("index.sqlite", r"features: file is not a database; make room, delete it or "),
        ("patch_tokens.features", r"patch_tokens\.features is damaged: delete .*features$"),
    ],
)
def test_a_damaged_file_says_what_to_delete(
    folder: Path, photos: list[Photo], damaged: str, message: str
) -> None:
    fill(open_cache(folder), photos[:1])
    content = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(content[len(content) // 2 :])
    with pytest.raises(DataError, match=message):
        open_cache(folder).get(photos[0])


def test_features_beyond_float16_are_told(folder: Path, photos: list[Photo]) -> None:
    tower = tiny.clip_tower()
    with torch.no_grad():
        for parameter in tower.model.encoder.layers[-1].mlp.fc2.parameters():
            parameter.mul_(1e7)
    with pytest.raises(DataError) as raised:
        fill(open_cache(folder, tower), photos[:1])
    assert str(raised.value).startswith(f"patch tokens of {photos[0].name!r} reach ")
    assert str(raised.value).endswith(
        ", which float16 does not hold: cache them in bfloat16 or not at all"
    )
    wide = open_cache(folder.with_name("wide"), tower, dtype=torch.bfloat16)
    assert fill(wide, photos[:1]).encoded == 1


def test_bytes_that_change_while_they_wait_are_read_once(folder: Path, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    tiny.photo(5).save(buffer, "PNG")
    reads: list[int] = []

    class Counted(FilePhoto):
        def data(self) -> bytes:
            reads.append(1)
            return super().data()

    photo = Counted(tmp_path / "one.png")
    photo.path.write_bytes(buffer.getvalue())
    cache = open_cache(folder)
    fill(cache, [photo])
    fill(cache, [photo])
    assert cache.get(photo) is not None
    assert reads == [1]
