"""What the processes of `tests.ranks` have imported before they are forked."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"  # else it looks for one, and says so

import deepspeed  # pyright: ignore[reportMissingTypeStubs]
import torch
import torch.distributed.checkpoint
import torch.distributed.fsdp  # noqa: F401

import scaling.work.worker  # noqa: F401

# Its shared-memory operator would be compiled at the first start.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # pyright: ignore[reportAttributeAccessIssue]
