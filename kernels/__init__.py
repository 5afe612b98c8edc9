"""Softmax attention and its Jacobian-vector product. Needs torch alone and knows nothing of the rest."""

from kernels.attention import attention, attention_jvp

__version__ = "0"  # transformers asks a package of this name for its version and fails on none

__all__ = ["attention", "attention_jvp"]
