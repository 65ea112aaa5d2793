"""The Triton kernels through Triton's interpreter, in a process of its own."""

import pytest


def test_kernels_agree_with_the_formula(run_with):
    out = run_with("triton_cases.py", interpret=True, select="not slow")
    assert " passed" in out
    assert "skipped" not in out


@pytest.mark.sweep
def test_kernels_agree_with_the_formula_everywhere(run_with):
    assert " passed" in run_with("triton_cases.py", interpret=True, select="slow")
