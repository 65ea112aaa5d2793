"""The same operations in plain PyTorch: the only reference copy."""
