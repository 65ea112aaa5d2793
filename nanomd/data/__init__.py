"""Discrete trajectories: read, checked, written, split, and mapped to tokens."""
