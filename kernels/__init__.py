"""Operations of the training step: a registry of implementations, with plain PyTorch as the reference."""

from nanomd.kernels.attention import attention

__all__ = ["attention"]
