"""Operations of the training step: a registry of implementations, with plain PyTorch as the reference."""
