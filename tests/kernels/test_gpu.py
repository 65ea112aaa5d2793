"""The same bodies on a CUDA device."""

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def test_kernels_agree_with_the_formula(run_with):
    assert " passed" in run_with("triton_cases.py", interpret=False)


def test_auto_chooses_triton_on_a_gpu():
    from nanomd.kernels import registry

    request = registry.Request(torch.device("cuda"), torch.float16, {"d_head": 32})
    assert registry.resolve("attention", "auto", request).name == "triton"
