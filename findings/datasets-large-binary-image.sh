#!/usr/bin/env bash
# datasets 4.5.0 (pyarrow 26.0.1, pillow 13.0.0); compared with datasets 4.6.0.
# Done: Parquet files with one PNG in a column of binary, or of large_binary,
#   are read by load_dataset("parquet"), the column cast to Image(decode=False).
# Seen: 4.5.0 takes binary and fails at large_binary. 4.6.0 takes both.
# Expected: both read alike, as in 4.6.0.
# Output seen:
#   4.5.0 binary: bytes, path
#   4.5.0 large_binary: ArrowNotImplementedError: Unsupported cast from large_binary to struct using function cast_struct
#   4.6.0 binary: bytes, path
#   4.6.0 large_binary: bytes, path
# Exits 0 while this is so.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export HF_HOME="$tmp/home" HF_HUB_OFFLINE=1

cat >"$tmp/show.py" <<'PY'
import io
import sys
import datasets
import pyarrow
import pyarrow.parquet
from PIL import Image

folder = sys.argv[1]
file = io.BytesIO()
Image.new("RGB", (4, 4)).save(file, "PNG")
for kind in pyarrow.binary(), pyarrow.large_binary():
    path = f"{folder}/{kind}.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": pyarrow.array([file.getvalue()], kind)}), path)
    rows = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=f"{folder}/cache")
    try:
        image = rows.cast_column("image", datasets.Image(decode=False))[0]["image"]
        seen = ", ".join(sorted(image))
    except pyarrow.ArrowNotImplementedError as error:
        seen = f"{type(error).__name__}: {error}"
    print(f"{datasets.__version__} {kind}: {seen}")
PY

python3 -m venv "$tmp/venv"
for v in 4.5.0 4.6.0; do
  "$tmp/venv/bin/python" -m pip install --quiet "datasets==$v" pyarrow==26.0.1 pillow==13.0.0
  mkdir "$tmp/$v"
  "$tmp/venv/bin/python" "$tmp/show.py" "$tmp/$v" | tee -a "$tmp/seen"
done

cat >"$tmp/stated" <<'TXT'
4.5.0 binary: bytes, path
4.5.0 large_binary: ArrowNotImplementedError: Unsupported cast from large_binary to struct using function cast_struct
4.6.0 binary: bytes, path
4.6.0 large_binary: bytes, path
TXT
cmp -s "$tmp/seen" "$tmp/stated" || { echo "changed: not what the comment states"; exit 1; }
