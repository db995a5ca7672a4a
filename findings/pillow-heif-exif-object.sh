#!/usr/bin/env bash
# pillow-heif 1.8.1 (pillow 13.0.0). Done: a 32x48 image is saved as JPEG and
#   HEIF with exif= an Image.Exif of orientation 6, or its tobytes(), and read.
# Seen: HEIF with the object is no longer turned: the EXIF inside says 6, but no
#   rotation is written, and the reader sets orientation to 1 on pixels that it
#   did not turn (32x48). With the bytes it is turned (48x32). No warning.
# Expected: the same for both, as Pillow's own JPEG writer has it.
# Output seen:
#   JPEG Exif: 32x48 orientation 6
#   JPEG bytes: 32x48 orientation 6
#   HEIF Exif: 32x48 orientation 1 (was 6)
#   HEIF bytes: 48x32 orientation 1 (was 6)
# Exits 0 while this is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

python3 -m venv "$tmp/venv"
"$tmp/venv/bin/python" -m pip install --quiet pillow-heif==1.8.1 pillow==13.0.0

cat >"$tmp/show.py" <<'PY'
import io
import pillow_heif
from PIL import Image

pillow_heif.register_heif_opener()
exif = Image.Exif()
exif[0x0112] = 6  # orientation: to be turned by 90 degrees
for kind in "JPEG", "HEIF":
    for name, value in ("Exif", exif), ("bytes", exif.tobytes()):
        file = io.BytesIO()
        Image.new("RGB", (32, 48)).save(file, kind, exif=value)
        read = Image.open(io.BytesIO(file.getvalue()))
        was = read.info.get("original_orientation")
        was = f" (was {was})" if was else ""
        print(f"{kind} {name}: {read.width}x{read.height} orientation {read.getexif()[0x0112]}{was}")
PY
"$tmp/venv/bin/python" "$tmp/show.py" | tee "$tmp/seen"

cat >"$tmp/stated" <<'TXT'
JPEG Exif: 32x48 orientation 6
JPEG bytes: 32x48 orientation 6
HEIF Exif: 32x48 orientation 1 (was 6)
HEIF bytes: 48x32 orientation 1 (was 6)
TXT
cmp -s "$tmp/seen" "$tmp/stated" || { echo "changed: not what the comment states"; exit 1; }
