r"""Softmax, sample, mix: the input of pass 2 of the token objective, without materialised probabilities.

For sequence b and position t >= 1 of a window, with logits z of pass 1 and, if given, a markov table M:

.. math::

    \tilde x_{b,t} = \begin{cases} \min\{k : \sum_{j \le k} p_j > u \sum_j p_j\} & u' < \rho \\
    x_{b,t} & \text{else,}\end{cases} \qquad p = e^{z_{b,t-1} + M_{x_{b,t-1}} - \max}

Position 0 keeps its token. u and u' are the two 53-bit uniforms of one Philox4x32-10 block with key
``seed ^ STREAM`` and counter (step: 64 bits, position: 32 bits, sequence: 32 bits), so that a draw depends on
neither the batch's layout nor the device; STREAM keeps training's numbers apart from a rollout's with the same seed.
Exponentials are float32, their sums float64; on rounding, the last state with p > 0.

Rows that are not replaced are not read: at replacement rate rho the traffic is rho * V values a position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nanomd.base.errors import InputError
from nanomd.kernels import registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

STREAM = 0x74776F2D70617373
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MASK64 = (1 << 64) - 1


@torch.no_grad()
def sample_mix(
    logits: Tensor,
    tokens: Tensor,
    *,
    probability: float | Tensor,
    seed: int,
    step: int | Tensor,
    first_sequence: int = 0,
    markov: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Replace tokens by states sampled from the prediction one position earlier.

    Parameters
    ----------
    logits
        Pass 1, shape (B, T, V): row t predicts position t + 1.
    tokens
        Integer tokens of the windows, shape (B, T).
    probability
        Replacement probability rho in [0, 1]; a tensor of one element keeps it on the device (CUDA graphs).
    seed
        Key of the random numbers, 64 bits.
    step
        Optimiser step; a tensor of one int64 keeps it on the device, so that a replayed graph draws anew.
    first_sequence
        Global index of the first window, so that several processes draw as one would.
    markov
        Table (V, V) to add to the logits by the current token, or None.
    backend
        "auto", "reference" or "triton".

    Returns
    -------
    Tensor
        The mixed tokens, shape and type of `tokens`.

    Raises
    ------
    InputError
        If shapes or values do not fit.
    BackendUnavailableError
        If a backend asked for by name cannot run here.
    """
    if logits.dim() != 3 or tokens.shape != logits.shape[:2]:
        shapes = f"{tuple(logits.shape)} and {tuple(tokens.shape)}"
        raise InputError(f"logits must be (B, T, V) and tokens (B, T), got {shapes}")
    if tokens.is_floating_point() or tokens.device != logits.device:
        raise InputError(f"tokens must be integers on {logits.device}, got {tokens.dtype} on {tokens.device}")
    n_states = logits.shape[2]
    if markov is not None and tuple(markov.shape) != (n_states, n_states):
        raise InputError(f"markov must have shape (V, V) = ({n_states}, {n_states}), got {tuple(markov.shape)}")
    if not isinstance(probability, torch.Tensor) and not 0.0 <= probability <= 1.0:
        raise InputError(f"probability must be in [0, 1], got {probability}")
    if not 0 <= seed <= _MASK64:
        raise InputError(f"seed must be in [0, 2^64 - 1], got {seed}")
    device = logits.device
    on_device = {
        "probability": torch.as_tensor(probability, dtype=torch.float64, device=device).reshape(1),
        "step": torch.as_tensor(step, dtype=torch.int64, device=device).reshape(1),
    }
    request = registry.Request(device, logits.dtype, {"n_states": n_states})
    run = registry.resolve("sample_mix", backend, request).run
    return run(logits, tokens, key=seed ^ STREAM, first_sequence=first_sequence, markov=markov, **on_device)


def _load_triton() -> Callable[..., Tensor]:
    from nanomd.kernels.triton_sample_mix import sample_mix as implementation

    return implementation


def _load_reference() -> Callable[..., Tensor]:
    from nanomd.kernels.reference.sample_mix import sample_mix as implementation

    return implementation


registry.register("sample_mix", "triton", _load_triton, lambda request: registry.refuse_triton(request, _DTYPES))
registry.register("sample_mix", "reference", _load_reference)
