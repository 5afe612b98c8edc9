"""torch.compile of the blocks of a network, under every strategy."""

from __future__ import annotations

from types import FunctionType, MethodType

import torch

from models.trigflow import TrigFlowNet
from models.unet import Block


def compile_blocks(net: TrigFlowNet, backend: str = "inductor") -> None:
    """Have each block's forward compiled at its first call, without graph breaks; call this before sharding.

    The forward alone, not the call around it: the hooks by which the strategies gather weights and reduce gradients
    stay outside, as they are.
    """
    for block in net.modules():
        if isinstance(block, Block):
            own = MethodType(_copied(Block.forward), block)
            block.forward = torch.compile(own, fullgraph=True, dynamic=False, backend=backend)


def _copied(function: FunctionType) -> FunctionType:
    """The function with a code object of its own: compiled forms, of which there may be 8, are kept by code object."""
    code = function.__code__.replace()
    copy = FunctionType(code, function.__globals__, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
