"""`vlm` on CPU processes that shard a model among them, as GPUs would. accelerate shards on
accelerators alone, and would train on the CPU as if it had not been asked: here the CPU passes for
one."""

import sys

from accelerate.state import PartialState
from accelerate.utils import DistributedType

from vlm.cli import main

if __name__ == "__main__":
    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    PartialState._shared_state["_cpu"] = False
    sys.exit(main())
