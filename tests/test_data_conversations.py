"""Conversations, a small file for each form that they are published in."""

import base64
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data_folders import png, read, reasons, save_json, save_lines, save_photos
from vlm.data.conversations import Turn, converse
from vlm.data.photos import FilePhoto, UrlPhoto, decode
from vlm.data.sample import Message, Sample, SkipSample
from vlm.errors import DataError, ImageError

URL = f"data:image/png;base64,{base64.b64encode(png(7)).decode()}"
CAT, DOG = FilePhoto(Path("a.png")), FilePhoto(Path("b.png"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_photos(tmp_path, "images/a.png", "images/b.png")
    return tmp_path


def turns(*values: object) -> list[dict[str, object]]:
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


def chat(*contents: object) -> list[dict[str, object]]:
    return [
        {"role": ("user", "assistant")[i % 2], "content": content}
        for i, content in enumerate(contents)
    ]


def said(*texts: object) -> tuple[Message, ...]:
    """Questions, each the parts or the only one, and answers in turn."""
    return tuple(
        Message(("user", "assistant")[i % 2], text if isinstance(text, tuple) else (text,))
        for i, text in enumerate(texts)
    )


def sample(folder: Path, record: dict[str, object], **fields: object) -> Sample:
    (found,) = read(save_lines(folder / "data", record), **fields).usable
    return found


def part(kind: str, value: object) -> dict[str, object]:
    return {"type": kind, kind: value}


ASKED = part("text", "What is it?")
QUESTION = said((0, "What is it?"), "A cat.")
FORMS = {
    "LLaVA": {
        "id": "000000033471",
        "image": "a.png",
        "conversations": turns("<image>\nWhat is it?", "A cat."),
    },
    "nanoVLM": {"image": ["a.png"], "conversations": turns("What is it?", "A cat.")},
    "LLaMA-Factory": {"messages": chat("<image>What is it?", "A cat."), "images": ["a.png"]},
    "ms-swift": {"messages": chat("What is it?", "A cat."), "images": "a.png"},
    "TRL": {"images": ["a.png"], "messages": chat([{"type": "image"}, ASKED], "A cat.")},
    "TRL in Arrow": {
        "images": ["a.png"],
        "messages": chat(
            [
                {"index": 0, "text": None, "type": "image"},
                {"index": None, "text": "What is it?", "type": "text"},
            ],
            [{"index": None, "text": "A cat.", "type": "text"}],
        ),
    },
    "Qwen2-VL": {"messages": chat([part("image", "a.png"), ASKED], [part("text", "A cat.")])},
    "Qwen2.5-VL": {
        "image": "images/a.png",
        "conversations": turns("<image>\nWhat is it?", "A cat."),
    },
    "no types": {"messages": chat([{"image": "a.png"}, {"text": "What is it?"}], "A cat.")},
    "image_url": {"messages": chat([part("image_url", "a.png"), ASKED], "A cat.")},
    "The Cauldron": {
        "images": ["a.png"],
        "texts": [{"user": "What is it?", "assistant": "A cat.", "source": "Some data set"}],
    },
    "other names": {
        "image": "a.png",
        "conversations": [
            {"from": "user", "value": "<image>What is it?"},
            {"from": "bot", "value": "A cat."},
        ],
    },
    "both keys": {
        "image": ["a.png"],
        "images": ["a.png"],
        "messages": chat("What is it?", "A cat."),
    },
    "the name of a file beside": {
        "image": "a.png",
        "file_name": "1.png",
        "conversations": turns("What is it?", "A cat."),
    },
    "ImageFolder": {"file_name": "a.png", "conversations": turns("What is it?", "A cat.")},
}


@pytest.mark.parametrize("form", FORMS)
def test_forms(folder: Path, form: str) -> None:
    found = sample(folder, FORMS[form])
    photo = FilePhoto(folder / "images/a.png")
    assert found == Sample(f"{folder / 'data'}, line 1", (photo,), (QUESTION,))
    assert found.dropped == ()


@pytest.mark.parametrize(
    "named",
    [
        part("image_url", {"url": URL, "detail": "low"}),
        part("image_url", URL),
        part("image", URL),
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": URL.split(",")[1]},
        },
        {"type": "image", "source": {"type": "url", "url": URL}},
    ],
)
def test_photos_in_the_text_of_a_file(folder: Path, named: dict[str, object]) -> None:
    found = sample(folder, {"messages": chat([named, ASKED], "A cat.")})
    assert (found.photos, found.conversations) == ((UrlPhoto(URL),), (QUESTION,))
    assert found.photos[0].data() == png(7)
    assert len(found.photos[0].name) < 40
    assert URL not in repr(found)


def test_a_data_url_that_is_no_photo_is_known_when_it_is_looked_at(folder: Path) -> None:
    (photo,) = sample(folder, {"image": "data:,x", "conversations": turns("?", "So.")}).photos
    with pytest.raises(ImageError, match=r"^cannot read 'data URL [0-9a-f]{16}': "):
        decode(photo)


def test_qwen_vl_names_photos_in_the_text(folder: Path) -> None:
    values = ["Picture 1: <img>a.png</img>\nPicture 2: <img>b.png</img>\nWhich?", "Both.", "?", "!"]
    found = sample(folder, {"conversations": turns(*values)})
    assert [photo.path.name for photo in found.photos] == ["a.png", "b.png"]
    assert found.conversations == (
        said(("Picture 1: ", 0, "Picture 2: ", 1, "Which?"), *values[1:]),
    )


@pytest.mark.parametrize(
    ("images", "question", "parts"),
    [
        ("a.png", "What is it?\n<image>", ("What is it?\n", 0)),
        ("a.png", "<image>", (0,)),
        ("a.png", "Which <colour>?", (0, "Which <colour>?")),
        (["a.png", "b.png"], "<image>\n<image>\nWhich?", (0, 1, "Which?")),
        (["a.png", "b.png"], "Is <image> like <image> ?", ("Is ", 0, " like ", 1, " ?")),
        (["a.png", "b.png"], "Are they alike?", (0, 1, "Are they alike?")),
        (["b.png", "b.png"], "<image> <image>", (0, 1)),
        (None, "What is the capital of France?", ("What is the capital of France?",)),
        ([], "Why?", ("Why?",)),
    ],
)
def test_photos_go_where_the_questions_say(
    folder: Path, images: object, question: str, parts: tuple[str | int, ...]
) -> None:
    found = sample(folder, {"image": images, "conversations": turns(question, " Yes. ")})
    assert found.conversations == (said(parts, "Yes."),)
    names = images if isinstance(images, list) else [images] if images else []
    assert found.photos == tuple(FilePhoto(folder / "images" / name) for name in names)


def test_photos_of_later_questions(folder: Path) -> None:
    values = ["<image>\nWho?", "<image> is text here.", "And <image>?", "A dog."]
    found = sample(folder, {"image": ["a.png", "b.png"], "conversations": turns(*values)})
    assert found.conversations == (said((0, "Who?"), values[1], ("And ", 1, "?"), "A dog."),)
    assert found.texts() == ["Who?", "<image> is text here.", "And ", "?", "A dog."]
    first, second = found.photos
    (messages,) = found.messages(random.Random(0))
    assert messages[0] == {
        "role": "user",
        "content": [{"type": "image", "image": first}, {"type": "text", "text": "Who?"}],
    }
    assert messages[2]["content"][1] == {"type": "image", "image": second}


pieces = st.lists(st.sampled_from(["<image>", " cat ", "dog", "\n", "<"]), max_size=6).map("".join)


@given(questions=st.lists(pieces, min_size=1, max_size=3), more=st.integers(-1, 2))
def test_every_photo_is_placed_once_and_in_order_or_none_is(
    questions: list[str], more: int
) -> None:
    """Whatever the texts, a sample has all its photos, in their order, or is not used."""
    places = sum(question.count("<image>") for question in questions)
    photos = [str(number) for number in range(max(0, places + more))]
    listed = [
        Turn(role, text)
        for question in questions
        for role, text in (("user", question), ("assistant", "Yes."))
    ]
    try:
        conversation, named, dropped = converse(listed, photos)
    except SkipSample:
        assert (places and len(photos) != places) or not "".join(questions).strip()
        return
    parts = [part for message in conversation[::2] for part in message.parts]
    assert named == photos
    assert [part for part in parts if isinstance(part, int)] == list(range(len(photos)))
    words = [text for text in parts if isinstance(text, str)]
    written = "".join("".join(questions).replace("<image>", " ").split())
    assert "".join("".join(words).split()) == written
    assert len(conversation) + 2 * len(dropped) == len(listed)
    if not places:
        assert conversation[0].parts[: len(photos)] == tuple(range(len(photos)))


@pytest.mark.parametrize("before", [[], turns("", "Hello.")[1:]])
@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [{"from": "system", "value": "Be brief."}]},
        {"conversations": [], "system": "Be brief."},
        {"conversations": [{"from": "system", "value": "Be brief."}], "system": "x"},
        {"conversations": [{"from": "developer", "value": [part("text", "Be brief.")]}]},
        {"conversations": [{"from": "system", "value": ""}]},
        {"conversations": []},
    ],
)
def test_what_is_in_front_of_the_first_question(
    folder: Path, record: dict[str, list], before: list[dict[str, object]]
) -> None:
    record = record | {"conversations": [*record["conversations"], *before, *turns("?", "So.")]}
    found = sample(folder, record)
    brief = "Be brief." in str(record)
    system = (Message("system", ("Be brief.",)),) if brief else ()
    assert found.conversations == ((*system, *said("?", "So.")),)
    unread = ["unread key 'system'"] if record.get("system") == "x" else []
    assert [*found.dropped] == ["answer in front of the first question"] * bool(before) + unread


@pytest.mark.parametrize("blank", ["", " ", []])
def test_only_the_pair_with_a_blank_text_is_dropped(folder: Path, blank: object) -> None:
    values = ["Who?", blank, "How many?", "Two.", blank, "Yes.", "Why?", blank]
    found = read(
        save_lines(
            folder / "data",
            {"image": "a.png", "conversations": turns(*values)},
            {"image": "b.png", "conversations": turns("Who?", "A dog.")},
        )
    )
    assert found.usable[0].conversations == (said((0, "How many?"), "Two."),)
    assert found.usable[0].dropped == ("blank answer", "blank question")
    assert found.dropped == {"blank answer": 1, "blank question": 1}


@pytest.mark.parametrize(
    ("fields", "dropped"),
    [
        ({"id": 3, "source": "a, b, and c", "width": 480, "model": "gpt-4", "scores": [1, 2]}, ()),
        ({"metadata": {"any": "thing at all"}, "hint": "", "tags": ["cat", "dog"]}, ()),
        ({"image_id": "x", "image_width": 3, "num_images": 2}, ()),
        ({"tools": [{"name": "zoom"}]}, ("unread key 'tools'",)),
        (
            {"hint": "Look left.", "chosen": {}, "提示": "左边"},
            ("unread key 'hint'", "unread key '提示'"),
        ),
        ({"hint": "left", "options": ["a", "b"]}, ("unread key 'hint'", "unread key 'options'")),
        ({"messages": chat("?", "!")}, ("unread key 'messages'",)),
        ({"x" * 1000: ["two words"]}, (f"unread key '{'x' * 25}...{'x' * 12}'",)),
    ],
)
def test_keys_that_say_something_are_named(
    folder: Path, fields: dict[str, object], dropped: tuple[str, ...]
) -> None:
    record = {"image": "a.png", "conversations": turns("<image>What?", "A cat.")}
    assert sample(folder, record | {"image_path": "a.png"}).dropped == ()
    assert sample(folder, record | fields).dropped == dropped
    record["conversations"][1] |= fields
    assert sample(folder, record).dropped == tuple(f"{words} of a turn" for words in dropped)


def test_a_form_as_one_list(folder: Path) -> None:
    records = [{"id": "7", "conversations": turns(f"{i}?", "Yes.")} for i in range(2)]
    first, second = read(save_json(folder / "data", records)).usable
    assert (first.where, second.where) == (f"{folder}/data, record 1", f"{folder}/data, record 2")
    assert second.texts() == ["1?", "Yes."]


WHY = {"conversations": turns("Why?", "So.")}
MEDIA = [
    {"video": "a.mp4"},
    {"videos": ["a.mp4"]},
    {"audio": ["a.wav"]},
    {"audios": [{"path": "a.wav"}]},
    {"image_path": "a.png"},
    {"img_path": "a.png"},
    {"imagePath": "a.png"},
    {"img": "a.png"},
    {"image1": "a.png", "id": 3},
    {"point_cloud": "a.ply"},
    {"path": "clips/a.MP4"},
    {"file": ["a.png"]},
]
TAGS = "<video> <audio> <ImageHere> <image_placeholder> <Img> <IMG> <img> <|image_1|> <image_1>"
"""What no key of the sample brings."""


@pytest.mark.parametrize("fields", MEDIA)
def test_nothing_is_trained_without_its_media(folder: Path, fields: dict[str, object]) -> None:
    ((_, reason, detail),) = reasons(read(save_lines(folder / "data", WHY, WHY | fields)), folder)
    key, value = next(iter(fields.items()))
    assert (reason, detail) == (f"unread media '{key}'", str(value))


@pytest.mark.parametrize("tag", [*TAGS.split(), "<|vision_start|>", "<start_of_image>"])
@pytest.mark.parametrize("form", ["conversations", "messages", "system"])
def test_nothing_is_trained_without_what_a_tag_stands_for(
    folder: Path, form: str, tag: str
) -> None:
    text = f"What is {tag} there?"
    bad = {
        "conversations": {"conversations": turns(text, "So.")},
        "messages": {"messages": chat([part("text", text)], "So."), "images": ["a.png"]},
        "system": {"conversations": turns("?", "So."), "system": text},
    }[form]
    good = {"messages": chat("?", "So.")}
    found = read(save_lines(folder / "data", good, bad))
    assert reasons(found, folder) == [("data, line 2", "unread media", tag)]


@pytest.mark.parametrize(
    ("record", "reason", "detail"),
    [
        ({"conversations": []}, "no question and answer", ""),
        ({"conversations": "Why?"}, "no question and answer", ""),
        ({"conversations": turns("Why?")}, "no answer to the last question", ""),
        ({"conversations": turns("Why?", "So.", "Why?")}, "no answer to the last question", ""),
        ({"conversations": turns("Why?", " ")}, "blank answer", ""),
        ({"conversations": turns(" ", "So.")}, "blank question", ""),
        (
            {"conversations": turns("<image>", "", "?", "So."), "image": "a.png"},
            "blank answer",
            "",
        ),
        ({"conversations": turns("\ud800", "So.")}, "question is not text", "'\\ud800'"),
        (
            {"conversations": [{"from": "human"}] * 2},
            "turns do not alternate",
            "turn 2 is from the user",
        ),
        (
            {"messages": [{"role": "system", "content": "!"}, *chat("?", "!", "?"), *chat("?")]},
            "turns do not alternate",
            "turn 5 is from the user",
        ),
        ({"conversations": turns("<img><img>a.png</img>", "!")}, "unread media", "<img>"),
        ({"messages": chat(None, "So.")}, "question is not text", "None"),
        ({"messages": chat("Why?", None)}, "answer is not text", "None"),
        ({"conversations": turns("", "So.")[1:]}, "no answer to the last question", ""),
        (
            {"conversations": [{"from": "system", "value": "?"}]},
            "no answer to the last question",
            "",
        ),
        ({"conversations": ["?"]}, "turn is not an object", "turn 1 is '?'"),
        ({"images": [], "texts": ["?"]}, "turn is not an object", "turn 1 is '?'"),
        ({"conversations": [{"value": "?"}]}, "unknown speaker", "turn 1 is from None"),
        (
            {"messages": [{"role": "tool", "content": "3"}]},
            "unknown speaker",
            "turn 1 is from 'tool'",
        ),
        ({"messages": [{"role": ["a"]}]}, "unknown speaker", "turn 1 is from ['a']"),
        (
            {"conversations": turns("<image>", "So.")},
            "<image> and images differ",
            "1 <image>, 0 images",
        ),
        (
            {
                "messages": chat([{"type": "image"}, ASKED, {"type": "image"}], "!"),
                "images": ["a.png"],
            },
            "<image> and images differ",
            "2 <image>, 1 images",
        ),
        ({"messages": chat([part("video", "a.mp4")], "!")}, "unread part 'video'", ""),
        ({"messages": chat("?", [part("image", "a.png")])}, "photo in the answer", ""),
        (
            {"messages": [*chat("?"), {"role": "assistant", "content": "!", "weight": 0}]},
            "an answer is not to be learned",
            "turn 2",
        ),
        (
            {"messages": [*chat("?"), {"role": "assistant", "content": "!", "loss": False}]},
            "an answer is not to be learned",
            "turn 2",
        ),
    ],
)
def test_conversations_that_are_skipped(
    folder: Path, record: dict[str, object], reason: str, detail: str
) -> None:
    file = save_lines(folder / "data", WHY, record)
    assert reasons(read(file), folder) == [("data, line 2", reason, detail)]


def test_a_record_without_turns(folder: Path) -> None:
    with pytest.raises(DataError, match="data, line 2: conversations missing; found id, expected"):
        read(save_lines(folder / "data", WHY, {"id": 3}))


@pytest.mark.parametrize(
    ("named", "reason", "detail"),
    [
        ("/{}/images/a.png", "image path leaves its folder", "{}: `outside: true` allows it"),
        (
            "file:///{}/images/a.png",
            "image path leaves its folder",
            "{}: `outside: true` allows it",
        ),
        ("../x/a.png", "image path leaves its folder", "{}: `outside: true` allows it"),
        ("https://a.b/c.png", "image is a web address", "{}: fetch it, and name its file"),
        ("c.png", "missing image", "{} under FOLDER: `images` says where photos are"),
        ({"bytes": "?"}, "image is not a path", "{'bytes': '?'}"),
    ],
)
def test_photos_that_are_not_read(folder: Path, named: object, reason: str, detail: str) -> None:
    if isinstance(named, str):
        named = named.format(folder)
        detail = detail.replace("FOLDER", str(folder)).format(named)
    file = save_lines(folder / "data", WHY, WHY | {"image": named})
    (found,) = read(file).skipped
    assert (found.reason, found.detail) == (reason, detail)


@pytest.mark.parametrize(
    "named",
    ["{}/a b.png", "file://{}/a%20b.png", "file://localhost{}/a%20b.png", "../{0.name}/a b.png"],
)
def test_photos_outside_the_folder_of_data_that_is_trusted(
    tmp_path: Path, folder: Path, named: str
) -> None:
    save_photos(tmp_path, "photos/a b.png")
    (folder / "data").mkdir()
    file = save_lines(folder / "data/lines", WHY | {"image": named.format(tmp_path / "photos")})
    (found,) = read(file, outside=True).usable
    assert found.photos[0].path.samefile(tmp_path / "photos/a b.png")


def test_no_line_about_a_sample_is_longer_than_a_line(folder: Path) -> None:
    long = "x" * 5000
    records = [
        WHY | {"image": f"http://{long}"},
        WHY | {"image": f"{long}.png"},
        WHY | {f"img_{long}": long},
        {"conversations": turns(3, long)},
        {"conversations": turns([part(long, "?")], "!")},
    ]
    for found in read(save_lines(folder / long[:200], WHY, *records)).skipped:
        assert len(str(found)) <= 300
    with pytest.raises(DataError) as told:
        read(save_lines(folder / "data", records[0]))
    assert len(str(told.value)) <= 300
    assert str(told.value).endswith("fetch it, and name its file")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from(
        ["<image>", "a.png", "text", "image", "user", "assistant", "human", "gpt", ""]
    )
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "image", "text", "from", "role", "url"]), inner)
    ),
    max_leaves=5,
)
a_turn = st.dictionaries(
    st.sampled_from(["role", "from", "value", "content", "user", "assistant", "weight"]), values
)


@given(
    record=st.dictionaries(st.sampled_from(["image", "images", "system", "video", "text"]), values),
    key=st.sampled_from(["conversations", "messages", "texts"]),
    listed=st.lists(a_turn, max_size=4) | values,
)
def test_any_record_is_used_or_skipped(
    tmp_path_factory: pytest.TempPathFactory, record: dict[str, object], key: str, listed: object
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "a.png").touch()
    file = save_lines(folder / "any", WHY, record | {key: listed})
    found = read(file, format="conversations")
    for one in found.usable:
        (messages,) = one.messages(random.Random(0))
        roles = [message["role"] for message in messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2) != []
        assert all(message["content"] for message in messages)
    assert len(found.usable) + len(found.skipped) == 2
