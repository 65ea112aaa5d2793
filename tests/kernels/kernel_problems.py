"""What the parity tests share: problems, implementations, and the bound on their errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from nanomd.kernels.reference.attention import attention as formula
from nanomd.kernels.reference.attention import rotate

NAMES = ("o", "dq", "dk", "dv")
# Over 224 problems in float32 and float16, windows beyond one, the average error was at most 1.27 times PyTorch's (dq).
# The largest of a tensor was up to 2.6 times PyTorch's largest where the averages were equal to 1 %: luck. In roundings
# of its terms no element was off by more than 1.33, and by more than 1.63 in PyTorch: terms add up, but signs differ.
WORST = 2.5
LEAST = 0.5


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


def rounding_scales(problem, device="cpu"):
    """What one rounding of every term would do to each element of o, dq, dk, dv, if all errors had one sign.

    In units of the type's unit roundoff u: |error| <= u * scale to first order, were each product, sum and exponential
    rounded once. Terms are taken by magnitude, so that cancellation (in do.v - delta, above all) does not hide in it.
    The score's error is |q|.|k| / sqrt(d_head), that of p the same times p, the normaliser's included.
    """
    (q, k, v, do), (cos, sin) = problem.tensors(device)
    if cos is not None:
        q, k = rotate(q, cos.double(), sin.double()), rotate(k, cos.double(), sin.double())
    group = problem.n_head // problem.n_kv_head
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scale = problem.d_head**-0.5
    position = torch.arange(problem.length, device=device)
    lag = position[:, None] - position[None, :]
    scores = (q @ k.mT * scale).masked_fill((lag < 0) | (lag >= problem.window), -math.inf)
    p = torch.softmax(scores, dim=-1)
    of_score = q.abs() @ k.abs().mT * scale
    of_p = p * (1 + of_score + (p * of_score).sum(dim=-1, keepdim=True))
    dp, of_dp = do @ v.mT, do.abs() @ v.abs().mT
    delta, of_delta = (p * dp).sum(dim=-1, keepdim=True), (of_p * of_dp).sum(dim=-1, keepdim=True)
    of_ds = of_p * (dp - delta).abs() + p * (of_dp + of_delta)

    def turned_back(x):
        return x if cos is None else x + x.roll(problem.d_head // 2, dims=-1)

    def summed_over_groups(x):
        return x.unflatten(1, (problem.n_kv_head, group)).sum(dim=2)

    of_dk, of_dv = of_ds.mT @ q.abs() * scale, of_p.mT @ do.abs()
    return (
        of_p @ v.abs(),
        turned_back(of_ds @ k.abs() * scale),
        turned_back(summed_over_groups(of_dk)),
        summed_over_groups(of_dv),
    )


def root_mean_square(x):
    return float(x.square().mean().sqrt())


def assert_as_good_as_pytorch(implementation, problem, dtype, device="cpu", factor=2.0):
    """Error against float64: on average at most `factor` times PyTorch's, and nowhere more than its terms can make.

    The average is the root mean square over all elements, beside that of the formula in PyTorch in the same type. Where
    PyTorch is exact, as in the zero gradients of a window of one, it may be LEAST roundings of the terms.

    The largest error is not compared with PyTorch's: the largest of some thousand is one element's luck, good or bad.
    Every element by itself is instead held to WORST times the first-order bound of `rounding_scales`. It knows relative
    errors only: results below the smallest normal number, where float16 gradients do fall, are half a subnormal off.
    """
    truth = outputs_and_gradients(formula, problem, torch.float64, device)
    plain = outputs_and_gradients(formula, problem, dtype, device)
    ours = outputs_and_gradients(implementation, problem, dtype, device)
    unit = torch.finfo(dtype).eps / 2
    half_a_subnormal = torch.finfo(dtype).smallest_normal * unit
    for name, exact, theirs, mine, scale in zip(
        NAMES, truth, plain, ours, rounding_scales(problem, device), strict=True
    ):
        assert torch.isfinite(mine).all(), f"{name} is not finite for {problem}"
        error = root_mean_square(mine - exact)
        bound = factor * root_mean_square(theirs - exact) or LEAST * unit * root_mean_square(scale)
        assert error <= bound, f"{name}: root mean square error {error:.2e} exceeds {bound:.2e} for {problem}"
        worst = float((((mine - exact).abs() - half_a_subnormal).clamp(min=0.0) / (unit * scale)).max())
        assert worst <= WORST, f"{name}: an error of {worst:.2f} > {WORST} roundings of its terms for {problem}"
