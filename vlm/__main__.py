"""`python -m vlm`, the same as `vlm`."""

import sys
from pathlib import Path

# Python, torchrun and accelerate put the current folder first on the path, where a `train.py` of
# the user's would stand before our `train`.
if Path(sys.path[0]).resolve() != Path(__file__).resolve().parents[1]:
    del sys.path[0]

from vlm.cli import main

raise SystemExit(main())
