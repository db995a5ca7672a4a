"""Every kind of image becomes RGB; everything else becomes an ImageError that says why."""

import asyncio
import base64
import contextlib
import http.server
import io
import os
import socket
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pillow_heif import register_heif_opener

from vlm import images
from vlm.errors import ImageError
from vlm.images import image_fingerprint, load_image

register_heif_opener()  # to write it
RED, WHITE, GREY = (255, 0, 0), (255, 255, 255), (128, 128, 128)


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, **chunks: bytes) -> bytes:
    """A PNG written by hand, for what Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *((name.encode(), data) for name, data in chunks.items())]
    parts += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def first_pixel(source: Any) -> tuple[int, ...]:
    image = load_image(source)
    assert image.mode == "RGB"
    return image.getpixel((0, 0))


def error_of(source: Any) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(source)
    message = str(caught.value)
    assert "\n" not in message
    return message


RED_PNG = encode(Image.new("RGB", (3, 2), RED))
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))


# Sources


def test_a_path_as_string_or_path_object_whatever_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / "red.txt"
    path.write_bytes(RED_PNG)
    assert first_pixel(path) == first_pixel(str(path)) == RED


def test_bytes_and_pil_images() -> None:
    assert first_pixel(RED_PNG) == first_pixel(Image.new("RGB", (1, 1), RED)) == RED


@pytest.mark.parametrize(
    ("array", "pixel"),
    [
        (np.full((2, 3), 128), GREY),
        (np.tile(RED, (2, 3, 1)), RED),
        (np.tile((0, 0, 0, 0), (2, 3, 1)), WHITE),
    ],
)
def test_arrays(array: np.ndarray, pixel: tuple[int, ...]) -> None:
    array = array.astype(np.uint8)
    assert load_image(array).size == (3, 2)
    assert first_pixel(array) == first_pixel(array[:, ::-1]) == pixel


@pytest.mark.parametrize("header", ["data:image/png;base64", "DATA:;BASE64", "data:a/b;c=d;base64"])
def test_base64_data_url(header: str) -> None:
    assert first_pixel(f"{header},{base64.encodebytes(RED_PNG).decode()}") == RED


def test_percent_encoded_data_url() -> None:
    assert first_pixel("data:image/png," + "".join(f"%{byte:02x}" for byte in RED_PNG)) == RED


# Kinds of image


@pytest.mark.parametrize("format", [*images.FORMATS, "MPO", "HEIF"])
def test_every_format(format: str) -> None:
    difference = np.subtract(first_pixel(encode(Image.new("RGB", (8, 8), GREY), format)), GREY)
    assert np.abs(difference).max() <= 3


@pytest.mark.parametrize(
    ("orientation", "how_it_was_turned"),
    [
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF"])
def test_exif_orientation(
    orientation: int, how_it_was_turned: Image.Transpose, format: str
) -> None:
    upright = Image.new("L", (48, 32))
    upright.paste(255, (0, 0, 16, 16))
    stored = upright.transpose(how_it_was_turned)
    exif = Image.Exif()
    exif[0x0112] = orientation
    # As bytes: of an Exif object pillow-heif writes no property of the image, which is what counts.
    image = load_image(encode(stored, format, exif=exif.tobytes()))
    assert image.size == (48, 32)
    corners = [image.getpixel(at)[0] > 127 for at in ((8, 8), (40, 8), (8, 24), (40, 24))]
    assert corners == [True, False, False, False]


def test_loading_twice_turns_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    once = load_image(encode(Image.new("RGB", (3, 2)), "JPEG", exif=exif))
    assert load_image(once).size == once.size == (2, 3)


def test_palette() -> None:
    assert first_pixel(encode(Image.new("RGB", (2, 2), RED).convert("P"))) == RED


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_palette_with_transparency_is_on_white(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 255, *RED])
    image.putpixel((1, 0), 1)
    loaded = load_image(encode(image, transparency=transparency))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]


@pytest.mark.parametrize("mode", ["LA", "PA", "La", "RGBA", "RGBa"])
def test_transparent_is_white_and_opaque_stays(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image = image.convert("LA").convert("La") if mode == "La" else image.convert(mode)
    loaded = load_image(image)
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (0, 0, 0)]


def test_half_transparent_is_half_way_to_white() -> None:
    assert first_pixel(encode(Image.new("RGBA", (1, 1), (255, 0, 0, 128)))) == (255, 127, 127)


@pytest.mark.parametrize(
    "data",
    [
        png(2, 1, 8, 0, b"\0\x12\x34", tRNS=b"\0\x12"),
        png(2, 1, 8, 2, b"\0\x12\x12\x12\x34\x34\x34", tRNS=b"\0\x12\0\x12\0\x12"),
        png(2, 1, 16, 0, b"\0\x12\x34\x34\x34", tRNS=b"\x12\x34"),
    ],
    ids=["grey", "RGB", "16-bit grey"],
)
def test_the_transparent_value_of_a_png_is_white(data: bytes) -> None:
    loaded = load_image(data)
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (0x34, 0x34, 0x34)]


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I"])
def test_16_bit_grey_is_scaled(mode: str) -> None:
    values = [0, 0x80 * 257, 0xFFFF]
    image = Image.new(mode, (3, 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    assert [load_image(image).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM"])
def test_16_bit_grey_files(format: str) -> None:
    image = Image.fromarray(np.full((2, 2), 0x80 * 257, dtype=np.uint16))
    assert first_pixel(encode(image, format)) == GREY


def test_32_bit_integers_are_scaled_by_their_maximum() -> None:
    image = Image.fromarray(np.array([[0, 1_000_000, 2_000_000]], dtype=np.int32))
    assert [load_image(image).getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 128.0, 200.0], [0, 128, 200]),
        ([0.0, 500.0, 1000.0], [0, 128, 255]),
        ([-1.0, float("nan"), float("inf")], [0, 0, 0]),
    ],
)
def test_floats(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_image(encode(image, "TIFF"))
    assert [loaded.getpixel((x, 0))[0] for x in range(3)] == expected


def test_cmyk_jpeg() -> None:
    # Pillow writes it as Adobe does, inverted, with Adobe's marker.
    data = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert b"Adobe" in data
    assert np.abs(np.subtract(first_pixel(data), RED)).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "YCbCr", "HSV", "LAB", "CMYK", "RGBX"])
def test_white_stays_white_in_every_mode(mode: str) -> None:
    image = Image.new("RGB", (2, 2), WHITE)
    if mode == "LAB":
        image = Image.merge("LAB", [Image.new("L", (2, 2), value) for value in (255, 128, 128)])
    loaded = np.asarray(load_image(image if image.mode == "LAB" else image.convert(mode)))
    assert loaded.shape == (2, 2, 3)
    assert loaded.min() >= 250


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(format: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255))]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert first_pixel(data) == RED


@pytest.mark.parametrize("size", [(1, 1), (5000, 1), (1, 5000)])
def test_extreme_sizes(size: tuple[int, int]) -> None:
    assert load_image(encode(Image.new("L", size))).size == size


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16", "F", "CMYK"])
def test_a_pil_image_is_never_changed(mode: str) -> None:
    image = Image.new(mode, (3, 2))
    image.info["exif"] = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    before = (image.mode, image.size, image.tobytes(), dict(image.info))
    loaded = load_image(image)
    assert loaded.size == (2, 3)
    loaded.paste((9, 9, 9), (0, 0, 2, 3))
    assert (image.mode, image.size, image.tobytes(), dict(image.info)) == before


# What cannot be read


def test_missing_file(tmp_path: Path) -> None:
    message = error_of(tmp_path / "cat.png")
    assert message == f"cannot read '{tmp_path}/cat.png': No such file or directory"


def test_a_directory_and_a_named_pipe_without_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert error_of(tmp_path).endswith(": it is a folder: name an image in it")
    assert error_of(tmp_path / "pipe").endswith(": it is a device, not a file")


def test_no_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(RED_PNG)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read anything
        os.seteuid(65534)
    try:
        assert "secret.png': Permission denied" in error_of(path)
    finally:
        os.seteuid(user)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "cannot read image bytes: it is empty"),
        (b"hello", "cannot read image bytes: not an image, or damaged, or not one of PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not one of PNG, JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not one of PNG, JPEG"),
        (encode(NOISE)[:-200], "cannot read image bytes: it cannot be decoded: "),
        (encode(NOISE, "JPEG")[:-200], "it cannot be decoded: image file is truncated"),
        (Image.new("RGB", (0, 5)), "cannot read PIL image: it has no pixels: 0 x 5"),
        (png(0, 1, 8, 0, b""), "not an image, or damaged"),
        ("", "cannot read '': No such file or directory"),
        ("a\0b", "not a valid path (embedded null byte)"),
        ("a\nb", r"cannot read 'a\nb': No such file or directory"),
        ("a" * 10_000, "...aaaaaaaaaaaaaaaaa': File name too long"),
        ("ftp://host/cat.png", "URL scheme 'ftp' is not one of http, https, data"),
        ("file:///cat.png", "URL scheme 'file' is not one of http, https, data"),
        ("http://", "cannot read 'http://': cannot fetch it: "),
        ("http://[::1", "cannot fetch it: Invalid port"),
        ("http://127.0.0.1:99999", "cannot fetch it: "),
        ("data:image/png", "malformed data URL: no comma"),
        ("data:image/png;base64,a", "malformed data URL: "),
        ("data:image/png;base64,*", "malformed data URL: "),
        ("data:image/png;base64,", "it is empty"),
        ("data:," + "a" * 999, f"cannot read 'data:,{'a' * 32}...{'a' * 19}': not an image"),
        (5, "cannot read an object of type int: give a path, bytes, a PIL image, a numpy array"),
        (None, "an object of type NoneType"),
        (
            np.zeros((2, 2)),
            "array: it must be uint8 of shape (H, W), (H, W, 3) or (H, W, 4), not f",
        ),
        (np.zeros((3, 8, 8), np.uint8), "(H, W, 4), not uint8 of (3, 8, 8)"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "not one of PNG, JPEG, GIF"),
    ],
)
def test_bad_sources(source: Any, reason: str) -> None:
    assert reason in error_of(source)


def test_a_pil_image_whose_file_is_closed() -> None:
    file = io.BytesIO(RED_PNG)
    image = Image.open(file)
    file.close()
    assert "cannot read PIL image: it cannot be decoded: " in error_of(image)


@pytest.mark.parametrize("side", [9_000, 12_000, 40_000])
def test_decompression_bomb_is_refused_by_its_header_without_a_warning(side: int) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = error_of(png(side, side, 8, 0, b""))
    assert message.endswith(f"more than {images.MAX_PIXELS} pixels; make it smaller")
    assert limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [(12_000, 9_001, (6_000, 4_501)), (16_320, 12_240, (8_160, 6_120)), (8_192, 8_192, None)],
)
def test_a_large_jpeg_is_decoded_at_half_its_size(
    width: int, height: int, size: tuple[int, int] | None
) -> None:
    photo = Image.new("L", (width, height), 60)
    photo.paste(200, (width // 2, 0, width, height))
    loaded = load_image(encode(photo, "JPEG"))
    assert loaded.size == (size or (width, height))
    near = [loaded.getpixel((loaded.width * x // 4, 9))[0] for x in (1, 3)]
    assert np.abs(np.subtract(near, [60, 200])).max() <= 2


def test_a_jpeg_that_is_too_large_even_for_that() -> None:
    header = encode(Image.new("L", (16, 16)), "JPEG")
    at = header.index(b"\xff\xc0") + 5
    header = header[:at] + struct.pack(">HH", 20_000, 20_000) + header[at + 4 :]
    assert f"more than {images.MAX_JPEG_PIXELS} pixels" in error_of(header)


@pytest.mark.parametrize("chunk", ["zTXt", "iTXt", "iCCP"])
@pytest.mark.parametrize("behind", [False, True])
def test_a_png_with_much_text_or_a_large_profile(chunk: str, behind: bool) -> None:
    start = b"name\0\1\0\0\0" if chunk == "iTXt" else b"name\0\0"
    data = png(1, 1, 8, 2, b"\0" + bytes(RED), **{chunk: start + zlib.compress(bytes(2**21))})
    if behind:
        end = data.index(b"IDAT") - 4
        text = data[33:end]
        data = data[:33] + data[end:-12] + text + data[-12:]
    assert first_pixel(data) == RED


def test_a_damaged_tiff_says_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    whole = encode(NOISE, "TIFF", compression="tiff_adobe_deflate")
    damaged = whole[:200] + bytes(40) + whole[240:]
    assert "it cannot be decoded" in error_of(damaged)
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)
    assert error_of(path).endswith(f"larger than {images.MAX_BYTES} bytes; make it smaller")


# The web


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        status, headers, body = 200, {}, RED_PNG
        if self.path.startswith("/redirect"):
            status, headers, body = 302, {"Location": self.path.partition("?")[2]}, b""
        elif self.path == "/loop":
            status, headers, body = 301, {"Location": "/loop"}, b""
        elif self.path == "/endless":
            body = b"\0" * (images.MAX_BYTES + 1)
        elif self.path == "/short":
            headers = {"Content-Length": "9999"}
        elif self.path == "/slow":
            self.server.stopped.wait()
        elif self.path != "/red.png":
            status = 404
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client hangs up on an endless answer
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.stopped = threading.Event()
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.stopped.set()
        running.shutdown()


def test_url(server: str) -> None:
    assert first_pixel(f"{server}/red.png") == RED
    assert first_pixel(f"{server}/red.png".replace("http", "HTTP")) == RED


def test_url_inside_an_event_loop(server: str) -> None:
    async def load() -> Image.Image:
        return load_image(f"{server}/red.png")

    assert asyncio.run(load()).size == (3, 2)


def test_redirects_are_followed(server: str) -> None:
    assert first_pixel(f"{server}/redirect?/redirect?{server}/red.png") == RED


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/none.png", "HTTP status 404 Not Found"),
        ("/loop", f"more than {images.MAX_REDIRECTS} redirects"),
        ("/redirect?file:///etc/passwd", "URL scheme 'file' is not one of http, https, data"),
        ("/redirect?http://[::1", "cannot fetch it: "),
        ("/endless", f"larger than {images.MAX_BYTES} bytes"),
        ("/short", "cannot fetch it: peer closed connection without sending complete message"),
    ],
)
def test_bad_answers(server: str, path: str, reason: str) -> None:
    message = error_of(server + path)
    assert message.startswith(f"cannot read '{server}{path}': ")
    assert reason in message


def test_a_server_that_does_not_answer(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_SECONDS", 0.3)
    assert error_of(f"{server}/slow").endswith("no complete answer within 0.3 seconds")


def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        assert error_of(url).startswith(f"cannot read '{url}': cannot fetch it: ")


# Fingerprints


def test_equal_pictures_have_equal_fingerprints() -> None:
    grey = Image.new("L", (3, 2), 7)
    assert len(image_fingerprint(grey)) == 64
    assert image_fingerprint(grey) == image_fingerprint(load_image(encode(grey)))


def test_pixels_shape_and_palette_change_the_fingerprint() -> None:
    palette = Image.new("P", (3, 2))
    palette.putpalette(RED)
    pictures = [
        palette,
        Image.new("RGB", (3, 2)),
        Image.new("RGB", (2, 3)),
        Image.new("RGB", (6, 1)),
        Image.new("RGB", (3, 2), (0, 0, 1)),
    ]
    assert len({image_fingerprint(picture) for picture in pictures}) == len(pictures)


# Anything at all

SEEDS = [
    *(encode(NOISE, format) for format in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM")),
    encode(NOISE.convert("P"), transparency=0),
    encode(NOISE.convert("CMYK"), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03"),
]


def rgb_or_error(source: Any) -> None:
    with contextlib.suppress(ImageError):
        assert load_image(source).mode == "RGB"


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    rgb_or_error(data)


@given(st.text(max_size=60))
def test_any_data_url(text: str) -> None:
    rgb_or_error("data:" + text)
    rgb_or_error("data:;base64," + text)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow on damaged metadata
@settings(max_examples=300)
@given(
    st.sampled_from(SEEDS),
    st.floats(0, 1),
    st.lists(st.tuples(st.one_of(st.floats(0, 1), st.floats(0, 0.05)), st.integers(0, 255))),
)
def test_any_damage(data: bytes, kept: float, changes: list[tuple[float, int]]) -> None:
    damaged = bytearray(data)
    for at, value in changes:
        damaged[int(at * (len(damaged) - 1))] = value
    rgb_or_error(bytes(damaged))
    rgb_or_error(bytes(damaged[: int(kept * len(damaged))]))
