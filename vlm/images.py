"""Images from wherever they are, as 8-bit RGB: paths, bytes, PIL images, arrays, `data:` and web
addresses.

Images come from strangers: bytes, pixels, seconds and redirects are bounded, and only formats that
Pillow decodes in the process are tried (its EPS reader, for one, would run Ghostscript).
"""

import asyncio
import base64
import ctypes
import hashlib
import os
import re
import stat
import urllib.parse
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO
from typing import Any, TypeAlias

import httpx
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile

from vlm.errors import ImageError, shortened

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

MAX_BYTES = 64 * 2**20
"""Largest encoded image, in bytes."""
MAX_PIXELS = 64 * 2**20
"""Largest image, in pixels; read from the header, before anything is decoded."""
MAX_JPEG_PIXELS = 4 * MAX_PIXELS
"""Largest JPEG; above `MAX_PIXELS` it is decoded at half its width and height. Phones take 108 and
200 million."""
MAX_SECONDS = 30.0
"""Longest time to fetch a URL, redirects included."""
MAX_REDIRECTS = 5
"""Most redirects followed."""

PNG = b"\x89PNG\r\n\x1a\n"
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "JPEG2000", "PPM")
"""The formats tried, by Pillow's names; HEIF is read as well."""

# libtiff prints what it finds damaged, and Pillow has no way to tell it not to.
with suppress(OSError, AttributeError):
    ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


def load_image(source: ImageSource) -> Image.Image:
    """The image as 8-bit RGB, upright by its EXIF orientation, transparency on white.

    The source is a path, the bytes of a file, a PIL image (never changed), a uint8 array (H, W),
    (H, W, 3) or (H, W, 4), or a `data:`, `http://` or `https://` URL. Of an animation it is the
    first frame. 16-bit grey is scaled to 8 bits; so are integers (white is 65535, or the maximum if
    that is higher) and floats (white is 1, or 255 or the maximum if the values go beyond); NaN and
    infinities are black. An ImageError names the source that cannot be read, and the reason."""
    try:
        if isinstance(source, Image.Image):
            return _to_rgb(source)
        if isinstance(source, np.ndarray):
            return _to_rgb(_from_array(source))
        return _decode(_read(source))
    except ImageError as error:
        raise ImageError(f"cannot read {_name(source)}: {error}") from error
    except Exception as error:  # Pillow's readers raise nearly anything on a damaged file.
        reason = f"it cannot be decoded: {_reason(error)}"
        raise ImageError(f"cannot read {_name(source)}: {reason}") from error


def image_fingerprint(image: Image.Image) -> str:
    """SHA-256 over mode, size and pixels of the image as RGB, in hexadecimal."""
    rgb = load_image(image)
    digest = hashlib.sha256(f"{rgb.mode} {rgb.width} {rgb.height} ".encode())
    digest.update(rgb.tobytes())
    return digest.hexdigest()


def reference(source: str) -> str:
    """A path or URL as it is shown; whoever shows a data URL has no use for its data."""
    return shortened(source, 60) if source[:5].lower() == "data:" else source


def _name(source: Any) -> str:
    if isinstance(source, bytes):
        return "image bytes"
    if isinstance(source, Image.Image):
        return "PIL image"
    if isinstance(source, np.ndarray):
        return "array"
    if not isinstance(source, str | os.PathLike):
        return f"an object of type {type(source).__name__}"
    # The quotes of repr escape line breaks.
    return repr(reference(os.fsdecode(source)))


def _read(source: Any) -> bytes:
    if isinstance(source, bytes):
        data = source
    elif isinstance(source, os.PathLike):
        data = _read_file(os.fspath(source))
    elif not isinstance(source, str):
        raise ImageError("give a path, bytes, a PIL image, a numpy array or a URL")
    elif source[:5].lower() == "data:":
        data = read_data_url(source)
    elif re.match(r"[a-z][a-z0-9+.-]*://", source, re.IGNORECASE):
        data = _read_web_url(source)
    else:
        data = _read_file(source)
    if not data:
        raise ImageError("it is empty")
    if len(data) > MAX_BYTES:
        raise ImageError(f"it is larger than {MAX_BYTES} bytes; make it smaller")
    return data


def _read_file(path: str | bytes) -> bytes:
    try:
        # Opening a named pipe would wait for a writer, perhaps for ever.
        kind = os.stat(path).st_mode
        if stat.S_ISDIR(kind):
            raise ImageError("it is a folder: name an image in it")
        if not stat.S_ISREG(kind):
            raise ImageError("it is a device, not a file")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ImageError(error.strerror) from error
    except ValueError as error:
        raise ImageError(f"not a valid path ({error})") from error


def read_data_url(url: str) -> bytes:
    """Decodes a `data:` URL (RFC 2397); line breaks in its base64 are allowed."""
    header, comma, payload = url.partition(",")
    if not comma:
        raise ImageError("malformed data URL: no comma in front of the data")
    try:
        data = urllib.parse.unquote_to_bytes(payload)
        if header.lower().endswith(";base64"):
            data = base64.b64decode(b"".join(data.split()), validate=True)
    except ValueError as error:
        raise ImageError(f"malformed data URL: {error}") from error
    return data


def _read_web_url(url: str) -> bytes:
    try:
        # A thread of its own, because the caller may be inside an event loop (a notebook is).
        with ThreadPoolExecutor(max_workers=1) as executor:
            return executor.submit(asyncio.run, _fetch(url)).result()
    except ImageError:
        raise
    except TimeoutError as error:
        raise ImageError(f"no complete answer within {MAX_SECONDS:g} seconds") from error
    except Exception as error:  # httpx lets errors of its backends through, such as groups of them.
        raise ImageError(f"cannot fetch it: {_reason(error)}") from error


async def _fetch(source: str) -> bytes:
    # httpx's own timeouts start anew with each byte that arrives; asyncio's does not.
    async with asyncio.timeout(MAX_SECONDS), httpx.AsyncClient(timeout=None) as client:
        url = httpx.URL(source)
        for _ in range(MAX_REDIRECTS + 1):
            if url.scheme not in ("http", "https"):
                raise ImageError(f"URL scheme {url.scheme!r} is not one of http, https, data")
            # Not compressed, so that few bytes cannot become many.
            headers = {"Accept-Encoding": "identity"}
            async with client.stream("GET", url, headers=headers) as response:
                # Not by httpx, which would read the whole body of a redirect.
                if response.has_redirect_location:
                    url = url.join(response.headers["location"])
                    continue
                if not response.is_success:
                    raise ImageError(f"HTTP status {response.status_code} {response.reason_phrase}")
                data = bytearray()
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > MAX_BYTES:
                        break
                return bytes(data)
    raise ImageError(f"more than {MAX_REDIRECTS} redirects")


def _from_array(array: np.ndarray) -> Image.Image:
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or array.shape[2:] not in ((), (3,), (4,))
    ):
        wanted = "uint8 of shape (H, W), (H, W, 3) or (H, W, 4)"
        raise ImageError(f"it must be {wanted}, not {array.dtype} of {array.shape}")
    return Image.fromarray(array)


def _decode(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        # Sizes are checked in _to_rgb, with an error; other warnings are about odd metadata.
        warnings.simplefilter("ignore")
        try:
            return _to_rgb(_open(data))
        except ValueError:
            # A text or profile of a PNG may be larger than Pillow takes; neither is needed.
            if not data.startswith(PNG):
                raise
            return _to_rgb(_open(_without_text(data)))


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        image = _open_heif(data)
        if image is None:
            known = ", ".join((*FORMATS, "HEIF"))
            raise ImageError(f"not an image, or damaged, or not one of {known}") from error
    except Image.DecompressionBombError as error:
        if not data.startswith(b"\xff\xd8"):
            raise ImageError(f"it has more than {MAX_PIXELS} pixels; make it smaller") from error
        image = JpegImageFile(BytesIO(data))
    if isinstance(image, JpegImageFile) and image.width * image.height > MAX_PIXELS:
        if image.width * image.height > MAX_JPEG_PIXELS:
            raise ImageError(f"it has more than {MAX_JPEG_PIXELS} pixels; make it smaller")
        image.draft(image.mode, (image.width // 2, image.height // 2))
    return image


def _open_heif(data: bytes) -> Image.Image | None:
    if data[4:8] != b"ftyp":
        return None
    # Imported here because its libraries are large, and few photos need them.
    from pillow_heif import HeifImageFile

    try:
        return HeifImageFile(BytesIO(data))
    except SyntaxError:
        return None


def _without_text(png: bytes) -> bytes:
    """A PNG without texts and colour profile, whose sizes Pillow limits."""
    kept, start = [png[: len(PNG)]], len(PNG)
    while start < len(png):
        end = start + 12 + int.from_bytes(png[start : start + 4])
        if png[start + 4 : start + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(png[start:end])
        start = end
    return b"".join(kept)


def _to_rgb(image: Image.Image) -> Image.Image:
    if min(image.size) == 0:
        raise ImageError(f"it has no pixels: {image.width} x {image.height}")
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"it has more than {MAX_PIXELS} pixels; make it smaller")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _grey_to_8_bit(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":  # Pillow has no direct conversion.
        image = image.convert("LA")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _grey_to_8_bit(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float32), nan=0, posinf=0, neginf=0)
    peak = values.max()
    scales = (1, 255) if image.mode == "F" else (65535,)
    white = next((scale for scale in scales if peak <= scale), peak)
    grey = Image.fromarray((values / white * 255).round().clip(0, 255).astype(np.uint8))
    if "transparency" in image.info:  # The one transparent value of a 16-bit PNG.
        grey.putalpha(Image.fromarray(values != image.info["transparency"]))
    return grey


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
