"""Operations of the training step: a registry of implementations, with plain PyTorch as the reference."""

from nanomd.kernels.attention import attention
from nanomd.kernels.sample_mix import sample_mix

__all__ = ["attention", "sample_mix"]
