"""Attention outside Triton: PyTorch's fused kernels against the formula, and the formula against itself."""

from __future__ import annotations

import pytest
import torch
from kernel_problems import Problem, assert_as_good_as_pytorch

from nanomd.base.errors import InputError
from nanomd.kernels import attention
from nanomd.kernels.reference.attention import attention as formula
from nanomd.kernels.reference.attention import rotate

SHAPES = [
    Problem(2, 2, 2, 37, 8, 5),
    Problem(1, 4, 2, 33, 16, 33),
    Problem(1, 4, 1, 64, 24, 16),
    Problem(1, 1, 1, 1, 8, 1),
    Problem(1, 2, 2, 40, 32, 1),
    Problem(2, 6, 2, 19, 64, 1000),
    Problem(2, 2, 1, 70, 40, 7, rotary=False),
    Problem(1, 2, 2, 129, 48, 65, seed=1),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("problem", SHAPES, ids=str)
def test_pytorchs_fused_attention_computes_the_formula(problem, dtype):
    def through_the_registry(*tensors, **rest):
        return attention(*tensors, backend="reference", **rest)

    # Both are PyTorch's; its fused kernel on a CPU rounds a little more than its matrix products.
    assert_as_good_as_pytorch(through_the_registry, problem, dtype, factor=4)


def test_the_formula_on_an_example_by_hand():
    q = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]], dtype=torch.float64)
    k = torch.tensor([[[[1.0, 1.0], [0.5, -1.0]]]], dtype=torch.float64)
    v = torch.tensor([[[[1.0, 2.0], [3.0, 5.0]]]], dtype=torch.float64)
    weight = 1 / (1 + torch.tensor(-2.0 / 2**0.5 - 2.0 / 2**0.5, dtype=torch.float64).exp())  # of key 0 for query 1
    o = formula(q, k, v, window=2)[0, 0]
    torch.testing.assert_close(o[0], v[0, 0, 0])
    torch.testing.assert_close(o[1], weight * v[0, 0, 0] + (1 - weight) * v[0, 0, 1])


def test_rotation_depends_on_the_difference_of_positions_alone():
    x, y = torch.randn(2, 8, dtype=torch.float64)
    frequency = torch.tensor([1.0, 0.3, 0.05, 0.01], dtype=torch.float64)

    def product(i, j):
        angle = torch.tensor([[i], [j]], dtype=torch.float64) * frequency
        turned = rotate(torch.stack((x, y)), angle.cos(), angle.sin())
        return turned[0] @ turned[1]

    torch.testing.assert_close(product(7, 3), product(104, 100))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"sin": None}, "given together"),
        ({"cos": torch.ones(5, 3)}, r"cos must have shape .* \(5, 4\), got \(5, 3\)"),
        ({"k": torch.ones(1, 3, 5, 8), "v": torch.ones(1, 3, 5, 8)}, "a divisor of 2"),
        ({"v": torch.ones(1, 2, 4, 8)}, "q must be"),
        ({"k": torch.ones(1, 2, 5, 8).half(), "v": torch.ones(1, 2, 5, 8).half()}, "share type and device"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    x = torch.ones(1, 2, 5, 8)
    arguments = {"q": x, "k": x, "v": x, "window": 2, "cos": torch.ones(5, 4), "sin": torch.ones(5, 4), **changes}
    q, k, v = (arguments.pop(name) for name in "qkv")
    with pytest.raises(InputError, match=message):
        attention(q, k, v, **arguments)
