"""Operations of the training step: a registry of implementations, with plain PyTorch as the reference."""

from nanomd.kernels.attention import attention
from nanomd.kernels.cross_entropy import cross_entropy
from nanomd.kernels.sample_mix import sample_mix

__all__ = ["attention", "cross_entropy", "sample_mix"]
