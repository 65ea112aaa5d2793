"""What the parity tests share: problems, implementations, and the bound on their errors."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nanomd.kernels.reference.attention import attention as formula


@dataclass(frozen=True)
class Problem:
    """One attention call."""

    batch: int
    n_head: int
    n_kv_head: int
    length: int
    d_head: int
    window: int
    rotary: bool = True
    seed: int = 0

    def tensors(self, device: str = "cpu"):
        """q, k, v, do in float64, and cos and sin (or None): values that every tested type holds exactly."""
        generator = torch.Generator().manual_seed(self.seed)

        def draw(heads):
            # Stored as (B, T, heads, d), as the layers around attention give it: a view with strides.
            x = torch.randn(self.batch, self.length, heads, self.d_head, generator=generator)
            return x.bfloat16().double().transpose(1, 2).to(device)

        q, k, v, do = (draw(heads) for heads in (self.n_head, self.n_kv_head, self.n_kv_head, self.n_head))
        angle = (torch.rand(self.length, self.d_head // 2, generator=generator) * 2 - 1) * torch.pi
        tables = (angle.cos().to(device), angle.sin().to(device)) if self.rotary else (None, None)
        return (q, k, v, do), tables


def outputs_and_gradients(implementation, problem, dtype, device="cpu"):
    """o, dq, dk, dv in float64 as computed by an implementation in a type."""
    (q, k, v, do), (cos, sin) = problem.tensors(device)
    leaves = [x.to(dtype, copy=True).requires_grad_() for x in (q, k, v)]
    if cos is not None and dtype == torch.float64:
        cos, sin = cos.double(), sin.double()
    o = implementation(*leaves, window=problem.window, cos=cos, sin=sin)
    assert o.dtype == dtype and o.shape == q.shape
    o.backward(do.to(dtype))
    return [o.detach().double(), *(x.grad.double() for x in leaves)]


def assert_as_good_as_pytorch(implementation, problem, dtype, device="cpu", factor=2, largest=None):
    """Error against float64 at most `factor` times that of the formula in the same type, or a few roundings.

    The largest of some thousand rounding errors fluctuates from problem to problem. A sweep over many problems passes a
    dictionary `largest`, in which the largest errors of all its problems are pooled, and ends with `assert_pooled`.
    """
    truth = outputs_and_gradients(formula, problem, torch.float64, device)
    plain = outputs_and_gradients(formula, problem, dtype, device)
    ours = outputs_and_gradients(implementation, problem, dtype, device)
    for name, exact, theirs, mine in zip(("o", "dq", "dk", "dv"), truth, plain, ours, strict=True):
        assert torch.isfinite(mine).all(), f"{name} is not finite for {problem}"
        norms = {"largest": lambda x: x.abs().max(), "root mean square": lambda x: x.square().mean().sqrt()}
        for norm, measure in norms.items():
            # With a window of one, dq and dk are differences of equal terms of order one: zero, but for rounding.
            least = 2.0 if problem.window == 1 and name in ("dq", "dk") else 0.1
            size = max(float(measure(exact)), least)
            bound = max(factor * float(measure(theirs - exact)), 4 * torch.finfo(dtype).eps * size)
            error = float(measure(mine - exact))
            if largest is not None and norm == "largest":
                before = largest.get(name, (0.0, 0.0))
                largest[name] = (max(before[0], error), max(before[1], bound))
                continue
            assert error <= bound, f"{name}: {norm} error {error:.2e} exceeds {bound:.2e} for {problem}"


def assert_pooled(largest):
    """The largest error over all problems of a sweep, against the bound over all of them."""
    for name, (error, bound) in largest.items():
        assert error <= bound, f"{name}: largest error {error:.2e} exceeds {bound:.2e}"
