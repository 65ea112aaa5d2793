"""Parity of the Triton kernels: one body, for the interpreter (`test_interpreter.py`) and a GPU (`test_gpu.py`)."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

from kernel_problems import Problem, assert_as_good_as_pytorch, outputs_and_gradients
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

import nanomd.kernels
from nanomd.kernels import cross_entropy, sample_mix
from nanomd.kernels.reference.attention import attention as formula
from nanomd.kernels.triton_attention import attention

ON_GPU = "TRITON_INTERPRET" not in os.environ
DEVICE = "cuda" if ON_GPU else "cpu"
# The interpreter's bfloat16 products are wrong; there the type is covered by compilation only.
DTYPES = [torch.float32, torch.float16] + ([torch.bfloat16] if ON_GPU else [])
if ON_GPU and not torch.cuda.is_available():
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)

named = {"ids": lambda x: str(x).replace("torch.", "")}
CASES = [
    Problem(2, 2, 2, 37, 8, 5),  # the smallest head, padded from 8 to 16 columns; odd length
    Problem(1, 2, 1, 33, 16, 33),  # window = length; grouped queries
    Problem(1, 4, 2, 67, 24, 20),  # a head that is no power of two; grouped queries over several tiles
    Problem(1, 1, 1, 1, 8, 1),  # one position
    Problem(1, 2, 2, 40, 32, 1),  # window of one: attention is the identity on values
    Problem(1, 2, 1, 19, 64, 1000),  # window beyond the length
    Problem(2, 1, 1, 70, 40, 7, rotary=False),  # learned positions
    Problem(1, 3, 1, 71, 48, 50, seed=1),
    Problem(1, 1, 1, 97, 56, 33, seed=2),  # the longest window that a tile of 32 walks
    Problem(1, 1, 1, 97, 16, 34, seed=3),  # one more than that
    Problem(1, 1, 1, 150, 16, 65, seed=4),  # the same limits of a tile of 64
    Problem(1, 1, 1, 150, 32, 66, seed=5),
    Problem(1, 2, 2, 128, 16, 100, seed=6),  # the largest sequence of one tile
    Problem(1, 1, 1, 150, 8, 129, seed=7),  # a walk of tiles of 128
    Problem(1, 1, 1, 131, 64, 64, seed=8),
]


@pytest.mark.parametrize("dtype", DTYPES, **named)
@pytest.mark.parametrize("problem", CASES, **named)
def test_attention(problem, dtype):
    assert_as_good_as_pytorch(attention, problem, dtype, DEVICE)


# Every head size with every head layout: many more problems, for the long run and the GPU.
LAYOUTS = [(1, 1), (4, 4), (4, 2), (4, 1), (6, 2)]
WINDOWS = [(1, 1), (31, 1), (45, 45), (64, 17), (65, 65), (129, 64), (129, 200), (200, 128)]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, **named)
@pytest.mark.parametrize("d_head", range(8, 65, 8))
def test_attention_everywhere(d_head, dtype):
    for seed, ((n_head, n_kv_head), (length, window)) in enumerate(itertools.product(LAYOUTS, WINDOWS)):
        if not ON_GPU and (length > 130 or (n_head > 4)):
            continue
        rotary = seed % 3 != 0
        problem = Problem(1 + seed % 2, n_head, n_kv_head, length, d_head, window, rotary, seed)
        assert_as_good_as_pytorch(attention, problem, dtype, DEVICE)


def _to_tf32(x):
    """Round to a mantissa of 10 bits, ties away from zero."""
    return ((x.view(np.uint32) + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)


def _to_bfloat16(x):
    return torch.from_numpy(np.ascontiguousarray(x)).bfloat16().float().numpy()


def products_in_tf32(dot, builder, a, b, d, *rest):
    rounded = [TensorHandle(_to_tf32(np.ascontiguousarray(x.data)), x.dtype) for x in (a, b)]
    return dot(builder, *rounded, d, *rest)


def sums_in_bfloat16(dot, builder, a, b, d, *rest):
    total = dot(builder, a, b, d, *rest)
    return TensorHandle(_to_bfloat16(total.data), total.dtype)


@pytest.mark.skipif(ON_GPU, reason="the mutants live in the interpreter")
@pytest.mark.parametrize(
    ("mutant", "dtype"),
    [(products_in_tf32, torch.float32), (sums_in_bfloat16, torch.float32), (sums_in_bfloat16, torch.float16)],
    **named,
)
@pytest.mark.parametrize("problem", [CASES[0], CASES[2]], **named)
def test_the_bound_refuses_kernels_that_round_more(problem, mutant, dtype, monkeypatch):
    dot = InterpreterBuilder.create_dot
    monkeypatch.setattr(InterpreterBuilder, "create_dot", lambda *arguments: mutant(dot, *arguments))
    with pytest.raises(AssertionError, match="root mean square error"):
        assert_as_good_as_pytorch(attention, problem, dtype, DEVICE)


def test_attention_repeats_bit_for_bit_and_ignores_the_batch():
    problem = Problem(3, 1, 1, 20, 16, 9)
    (q, k, v, do), (cos, sin) = problem.tensors(DEVICE)

    def run(part):
        x = [t[part].float().clone().requires_grad_() for t in (q, k, v)]
        o = attention(*x, window=9, cos=cos, sin=sin)
        o.backward(do[part].float())
        return [o.detach(), *(t.grad for t in x)]

    whole, again, last = run(slice(0, 3)), run(slice(0, 3)), run(slice(2, 3))
    for a, b, c in zip(whole, again, last, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[2:], c)


def test_attention_looks_neither_ahead_nor_beyond_the_window():
    problem = Problem(1, 1, 1, 50, 8, 6)
    (q, k, v, _), (cos, sin) = problem.tensors(DEVICE)
    q, k, v = q.float(), k.float(), v.float()
    before = attention(q, k, v, window=6, cos=cos, sin=sin)
    k[:, :, 30], v[:, :, 30] = 100.0, -100.0
    changed = (attention(q, k, v, window=6, cos=cos, sin=sin) != before).any(dim=-1)[0, 0].nonzero()[:, 0].tolist()
    assert changed
    assert set(changed) <= set(range(30, 36))


def test_attention_survives_large_scores():
    problem = Problem(1, 1, 1, 40, 16, 12)
    (q, k, v, _), (cos, sin) = problem.tensors(DEVICE)
    q = q * 300
    o = attention(q.float(), k.float(), v.float(), window=12, cos=cos, sin=sin)
    exact = formula(q, k, v, window=12, cos=cos.double(), sin=sin.double())
    assert torch.isfinite(o).all()
    assert (o - exact).abs().max() < 1e-2


def test_attention_takes_column_strides():
    problem = Problem(1, 2, 2, 20, 8, 5)
    strided = lambda q, k, v, **rest: attention(q.mT.contiguous().mT, k, v, **rest)  # noqa: E731
    for a, b in zip(
        outputs_and_gradients(strided, problem, torch.float32, DEVICE),
        outputs_and_gradients(attention, problem, torch.float32, DEVICE),
        strict=True,
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("n_states", [2, 5, 100, 1030])
@pytest.mark.parametrize("dtype", DTYPES, **named)
@pytest.mark.parametrize("with_markov", [False, True])
def test_sample_mix_equals_the_reference(n_states, dtype, with_markov):
    generator = torch.Generator().manual_seed(n_states)
    shape = (3, 15) if n_states < 1000 else (2, 4)  # one row a program is slow to interpret
    logits = (torch.randn(*shape, n_states, generator=generator) * 3).to(dtype).to(DEVICE)
    tokens = torch.randint(0, n_states, shape, generator=generator).to(DEVICE)
    markov = torch.randn(n_states, n_states, generator=generator).to(DEVICE) if with_markov else None
    for seed, step, first in ((0, 0, 0), (2**63 + 5, 2**33 + 1, 7), (2**64 - 1, 3, 2**31)):
        arguments = {"probability": 0.7, "seed": seed, "step": step, "first_sequence": first}
        arguments["markov"] = markov
        expected = sample_mix(logits, tokens, backend="reference", **arguments)
        mixed = sample_mix(logits, tokens, backend="triton", **arguments)
        # Exponentials may differ in the last bit, and a uniform lie that close to a boundary: 1e-6 a draw.
        assert torch.equal(mixed, expected)


def test_sample_mix_never_draws_an_impossible_state_and_keeps_what_it_must():
    logits = torch.full((2, 9, 6), float("-inf"), device=DEVICE)
    logits[..., 4] = 2.0
    tokens = torch.ones(2, 9, dtype=torch.uint8, device=DEVICE)
    everything = sample_mix(logits, tokens, probability=1.0, seed=1, step=2, backend="triton")
    assert everything.dtype == torch.uint8
    assert (everything[:, 0] == 1).all()
    assert (everything[:, 1:] == 4).all()
    assert torch.equal(sample_mix(logits, tokens, probability=0.0, seed=1, step=2, backend="triton"), tokens)


@pytest.mark.parametrize("n_states", [3, 100, 1030])
@pytest.mark.parametrize("dtype", DTYPES, **named)
@pytest.mark.parametrize("with_markov", [False, True])
def test_cross_entropy(n_states, dtype, with_markov):
    n_rows = 37 if n_states < 1000 else 5
    generator = torch.Generator().manual_seed(n_states)
    logits = (torch.randn(n_rows, n_states, generator=generator) * 4).to(dtype).to(DEVICE)
    targets, current = torch.randint(0, n_states, (2, n_rows), generator=generator).to(DEVICE)
    table = (torch.randn(n_states, n_states, generator=generator) * 2).to(DEVICE)
    weight = torch.rand(n_rows, generator=generator).to(DEVICE)

    def run(precision, backend):
        z = logits.to(precision, copy=True).requires_grad_()
        m = table.to(torch.promote_types(precision, torch.float32), copy=True).requires_grad_()
        arguments = {"current": current, "markov": m} if with_markov else {}
        nll = cross_entropy(z, targets, backend=backend, **arguments)
        (nll * weight.to(nll.dtype)).sum().backward()
        return [nll.detach().double(), z.grad.double()] + ([m.grad.double()] if with_markov else [])

    exact, plain, ours = run(torch.float64, "reference"), run(dtype, "reference"), run(dtype, "triton")
    for name, e, theirs, mine in zip(("nll", "dlogits", "dmarkov"), exact, plain, ours, strict=False):
        # Rounding of scores of size s moves the loss by eps s, however lucky the reference was.
        least = 4 * torch.finfo(dtype if name == "dlogits" else torch.float32).eps * max(float(e.abs().max()), 1.0)
        error = float((mine - e).abs().max())
        assert error <= max(2 * float((theirs - e).abs().max()), least), f"{name}: {error:.2e}"


def test_cross_entropy_gives_an_impossible_state_no_gradient():
    logits = torch.tensor([[0.0, float("-inf"), 1.0]], device=DEVICE, requires_grad=True)
    nll = cross_entropy(logits, torch.tensor([2], device=DEVICE), backend="triton")
    nll.backward(torch.ones_like(nll))
    p = 1 / (1 + torch.tensor(1.0).exp())
    torch.testing.assert_close(nll.detach().cpu()[0], -(1 - p).log())
    torch.testing.assert_close(logits.grad.cpu()[0], torch.stack((p, torch.tensor(0.0), -p)))


@pytest.mark.parametrize("operation", ["attention", "cross_entropy", "sample_mix"])
def test_torch_compile_takes_the_kernels_in_one_graph(operation):
    generator = torch.Generator().manual_seed(2)
    (q, k, v, do), (cos, sin) = Problem(2, 2, 1, 20, 8, 5).tensors(DEVICE)
    tokens = torch.randint(0, 6, (3, 10), generator=generator).to(DEVICE)
    logits = torch.randn(3, 10, 6, generator=generator).to(DEVICE)
    table = torch.randn(6, 6, generator=generator).to(DEVICE)

    def run(q, logits, table):
        rest = {"backend": "triton"}
        if operation == "attention":
            o = nanomd.kernels.attention(q, k.float(), v.float(), window=5, cos=cos, sin=sin, **rest)
            return (o * do.float()).sum()
        if operation == "cross_entropy":
            flat = tokens.flatten()
            return nanomd.kernels.cross_entropy(logits.flatten(0, 1), flat, current=flat, markov=table, **rest).sum()
        mixed = sample_mix(logits, tokens, probability=0.5, seed=3, step=tokens[0, 0], **rest)
        return mixed + 0 * logits.sum() * table.sum() * q.sum()

    compiled = torch.compile(run, backend="aot_eager", fullgraph=True)  # a break in the graph is an error
    results = []
    for function in (run, compiled):
        leaves = [x.float().clone().requires_grad_() for x in (q, logits, table)]
        out = function(*leaves)
        gradients = torch.autograd.grad(out.sum(), leaves, allow_unused=True)
        results.append([out.detach(), *(g for g in gradients if g is not None)])
    assert len(results[0]) > 1
    for plain, captured in zip(*results, strict=True):
        assert torch.equal(plain, captured)
