#!/usr/bin/env bash
# safetensors 0.8.0 (numpy 2.4.1); compared with safetensors 0.7.0.
# Done: under umask 022, safetensors.numpy.save_file() writes a small file,
#   beside a file written by open(path, "wb").
# Seen: 0.8.0 leaves mode 0600, so nobody but its owner can read a checkpoint
#   in a shared folder, without a word. open() gives 0644, as 0.7.0 did.
# Expected: the mode that the umask gives (0644), as before.
# Output seen:
#   safetensors 0.7.0: save_file 0644, open() 0644
#   safetensors 0.8.0: save_file 0600, open() 0644
# Exits 0 while this is so.
set -euo pipefail
umask 022
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

cat >"$tmp/show.py" <<'PY'
import os, stat, sys
from importlib.metadata import version
import numpy as np
from safetensors.numpy import save_file

os.chdir(sys.argv[1])
save_file({"w": np.zeros(4, np.float32)}, "a.safetensors")
with open("b.bin", "wb") as f:
    f.write(b"x")
mode = lambda p: f"{stat.S_IMODE(os.stat(p).st_mode):04o}"
print(f"safetensors {version('safetensors')}: save_file {mode('a.safetensors')}, open() {mode('b.bin')}")
PY

for v in 0.7.0 0.8.0; do
  python3 -m venv "$tmp/$v"
  "$tmp/$v/bin/python" -m pip install --quiet "safetensors==$v" numpy==2.4.1
  mkdir "$tmp/out-$v"
  "$tmp/$v/bin/python" "$tmp/show.py" "$tmp/out-$v" | tee -a "$tmp/seen"
done

cat >"$tmp/stated" <<'TXT'
safetensors 0.7.0: save_file 0644, open() 0644
safetensors 0.8.0: save_file 0600, open() 0644
TXT
cmp -s "$tmp/seen" "$tmp/stated" || { echo "changed: not what the comment states"; exit 1; }
