r"""Cross-entropy of every position, with the markov head fused.

For row n with logits z_n, target y_n and, if given, a markov table M and the current token c_n:

.. math::

    \ell_n = \ln \sum_k e^{a_{nk}} - a_{n y_n}, \quad a_n = z_n + M_{c_n}, \quad
    \frac{\partial \ell_n}{\partial z_{nk}} = e^{a_{nk} - \mathrm{lse}_n} - [k = y_n], \quad
    \frac{\partial L}{\partial M_{c}} = \sum_{n: c_n = c} \frac{\partial L}{\partial z_n}

Neither z + M nor its softmax is stored: the forward reads the logits once and keeps one number a row, the backward
reads them once more and writes their gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from nanomd.base.errors import InputError
from nanomd.kernels import registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    current: Tensor | None = None,
    markov: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Return the negative log-likelihood of each target, in nats.

    Parameters
    ----------
    logits
        Shape (N, V).
    targets
        int64 states in [0, V), shape (N,). Not checked: that would need the device's answer.
    current, markov
        Tokens that index the rows of a table to be added, int64 (N,), and the table (V, V); both or neither.
    backend
        "auto", "reference" or "triton".

    Returns
    -------
    Tensor
        float32 (float64 for float64 logits), shape (N,). Differentiable in logits and markov.

    Raises
    ------
    InputError
        If shapes do not fit.
    BackendUnavailableError
        If a backend asked for by name cannot run here.
    """
    if logits.dim() != 2 or targets.shape != logits.shape[:1]:
        shapes = f"{tuple(logits.shape)} and {tuple(targets.shape)}"
        raise InputError(f"logits must be (N, V) and targets (N,), got {shapes}")
    if (current is None) != (markov is None):
        raise InputError("current and markov must be given together, or neither")
    n_states = logits.shape[1]
    if markov is not None and current is not None:
        if tuple(markov.shape) != (n_states, n_states):
            raise InputError(f"markov must have shape (V, V) = ({n_states}, {n_states}), got {tuple(markov.shape)}")
        if current.shape != targets.shape:
            raise InputError(
                f"current must have the shape of targets, {tuple(targets.shape)}, got {tuple(current.shape)}"
            )
    request = registry.Request(logits.device, logits.dtype, {"n_states": n_states})
    run = registry.resolve("cross_entropy", backend, request).run
    return run(logits, targets, current=current, markov=markov)


def _load_triton() -> Callable[..., Tensor]:
    from nanomd.kernels.triton_cross_entropy import cross_entropy as implementation

    return implementation


def _load_reference() -> Callable[..., Tensor]:
    from nanomd.kernels.reference.cross_entropy import cross_entropy as implementation

    return implementation


registry.register("cross_entropy", "triton", _load_triton, lambda request: registry.refuse_triton(request, _DTYPES))
registry.register("cross_entropy", "reference", _load_reference)
