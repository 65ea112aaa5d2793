"""Compilation for GPUs that are not here, in a process of its own without the interpreter."""

import pytest


def test_kernels_compile_for_every_architecture(run_with):
    assert " passed" in run_with("aot_cases.py", interpret=False, select="not slow")


@pytest.mark.sweep
def test_every_kernel_compiles_for_every_architecture(run_with):
    assert " passed" in run_with("aot_cases.py", interpret=False, select="slow")
