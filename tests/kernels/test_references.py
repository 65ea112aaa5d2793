"""The definitions in plain PyTorch: their gradients in float64, and what is worked out by hand."""

from __future__ import annotations

import pytest
import torch
from kernel_problems import Problem

from nanomd.kernels import cross_entropy, sample_mix, sdpa_attention
from nanomd.kernels.reference.attention import attention as formula
from nanomd.kernels.reference.attention import rotate


def gradcheck(function, inputs):
    """Compare with central differences, a hundred times more strictly than PyTorch would by itself."""
    return torch.autograd.gradcheck(function, inputs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("rotary", [True, False], ids=["rotary", "unrotated"])
@pytest.mark.parametrize("window", [1, 3, 6, 9])  # of one, shorter, the sequence's, and beyond
@pytest.mark.parametrize("n_kv_head", [2, 1], ids=["every head", "grouped"])
@pytest.mark.parametrize("attention", [formula, sdpa_attention.attention], ids=["formula", "sdpa"])
def test_gradients_of_attention(attention, n_kv_head, window, rotary):
    (q, k, v, _), (cos, sin) = Problem(1, 2, n_kv_head, 6, 4, window, rotary).tensors()
    if cos is not None:
        cos, sin = cos.double(), sin.double()
    leaves = tuple(x.clone().requires_grad_() for x in (q, k, v))
    assert gradcheck(lambda q, k, v: attention(q, k, v, window=window, cos=cos, sin=sin), leaves)


def test_gradients_of_the_rotation():
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    angle = torch.linspace(-3, 3, 9, dtype=torch.float64).view(3, 3)
    assert gradcheck(lambda x: rotate(x, angle.cos(), angle.sin()), x)


def test_gradients_of_cross_entropy():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(7, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    table = torch.randn(4, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    targets, current = torch.randint(0, 4, (2, 7), generator=generator)
    plain = lambda z: cross_entropy(z, targets, backend="reference")  # noqa: E731
    assert gradcheck(plain, logits)
    with_table = lambda z, m: cross_entropy(z, targets, current=current, markov=m, backend="reference")  # noqa: E731
    assert gradcheck(with_table, (logits, table))


def test_a_gradient_that_is_wrong_is_seen():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sin()

        @staticmethod
        def backward(ctx, g):
            return 1.0001 * g

    with pytest.raises(RuntimeError, match="Jacobian mismatch"):
        gradcheck(Wrong.apply, torch.zeros(2, dtype=torch.float64, requires_grad=True))


def test_no_gradient_passes_a_draw():
    logits = torch.randn(2, 5, 3, requires_grad=True)
    mixed = sample_mix(logits, torch.zeros(2, 5, dtype=torch.int64), probability=1.0, seed=1, step=2)
    assert not mixed.requires_grad


@pytest.mark.parametrize("operation", ["attention", "cross_entropy", "sample_mix"])
def test_torch_compile_takes_the_reference_in_one_graph(operation):
    generator = torch.Generator().manual_seed(2)
    (q, k, v, _), (cos, sin) = Problem(2, 2, 1, 20, 8, 5).tensors()
    q = q.float().requires_grad_()
    tokens = torch.randint(0, 6, (3, 10), generator=generator)
    logits = torch.randn(3, 10, 6, generator=generator, requires_grad=True)

    def run():
        from nanomd.kernels import attention

        if operation == "attention":
            return attention(q, k.float(), v.float(), window=5, cos=cos, sin=sin, backend="reference")
        if operation == "cross_entropy":
            return cross_entropy(logits.flatten(0, 1), tokens.flatten(), backend="reference")
        return sample_mix(logits, tokens, probability=0.5, seed=3, step=tokens[0, 0], backend="reference")

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)  # a break in the graph is an error
    torch.testing.assert_close(compiled(), run())
