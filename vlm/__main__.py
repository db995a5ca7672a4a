"""`python -m vlm`, the same as `vlm`."""

import sys
from pathlib import Path

# `python -m`, which torchrun and accelerate start too, puts the current folder first on the path
# (`python -P` does not), where a `train.py` of the user's would stand before our `train`.
if not sys.flags.safe_path and Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from vlm.cli import main

raise SystemExit(main())
