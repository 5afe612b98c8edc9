"""What the processes of `tests.ranks` and `tests.forked` have imported before they are forked."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["DS_ACCELERATOR"] = "cpu"  # else it looks for one, and says so

import deepspeed  # pyright: ignore[reportMissingTypeStubs]
import deepspeed.module_inject.auto_ep_layer
import deepspeed.runtime.zero.muon.original_muon  # torch's compiler with it, which every engine asks for
import deepspeed.runtime.zero.stage3
import deepspeed.runtime.zero.stage_1_and_2
import torch
import torch._dynamo  # asked for by the first optimizer of a process
import torch.distributed.checkpoint
import torch.distributed.fsdp  # noqa: F401

import scaling.cli.main
import scaling.report.build
import scaling.study.display
import scaling.study.run
import scaling.work.stages
import scaling.work.worker  # noqa: F401

# Its shared-memory operator would be compiled at the first start.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # pyright: ignore[reportAttributeAccessIssue]
