"""What a training is set up with: device, window lengths, learning rate, optimiser, and PyTorch's global settings."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.base.errors import BackendUnavailableError, InputError
from nanomd.data.counts import sparse_transition_counts
from nanomd.model.geometry import fourier_features
from nanomd.model.network import NanoGPT
from nanomd.training.distributed import World
from nanomd.training.step import resolve_compile


def resolve_device(name: str, world: World | None = None) -> torch.device:
    """Return the device of a training: ``"auto"`` takes CUDA where there is one, each process its own."""
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError(
            "device 'cuda' is not available: PyTorch finds no CUDA device; use 'auto' or 'cpu'"
        )
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", world.local_rank) if world is not None and world.size > 1 else torch.device("cuda")


def resolve_train_length(model: ModelConfig, train: TrainConfig, longest: int) -> int:
    """Return T: targets per window.

    Parameters
    ----------
    model, train : configurations
        `train_length` None means 4 W for rotary positions and W for learned ones, or the longest trajectory if shorter.
    longest : int
        Frames of the longest training trajectory.
    """
    window = model.context_length
    if train.train_length is None:
        return max(1, min(4 * window if model.position == "rope" else window, longest - 1))
    if model.position == "learned" and train.train_length > window:
        raise InputError(
            f"train_length must be at most context_length = {window} with learned positions, got {train.train_length}"
        )
    if train.train_length > longest - 1:
        raise InputError(
            f"train_length must be in [2, {longest - 1}] frames (longest training trajectory has {longest}), "
            f"got {train.train_length}; leave it out to fit it to the data"
        )
    return train.train_length


def resolve_burn_in(model: ModelConfig, train: TrainConfig, length: int) -> int:
    """Return how many frames at the start of a window of `length` targets are read but not scored."""
    if train.burn_in is None:
        return min(model.context_length - 1, length // 2) if model.position == "rope" else 0
    return train.burn_in  # the sampler of windows checks it


def untrained_model(
    model: ModelConfig,
    config: TrainConfig,
    trajectories: Sequence[NDArray[Any]],
    coordinates: NDArray[np.float64] | None = None,
) -> NanoGPT:
    """Return a model with initial weights: at the Markov model of the data where it has a markov head.

    The embedding begins at the states' coordinates (V, k), where there are any (`nanomd.model.geometry`).
    """
    network = NanoGPT(model, backend=config.backend, seed=config.seed)
    if config.initial == "glorot":
        network.initialise_glorot(config.seed)
    if coordinates is not None:
        with torch.no_grad():
            features = fourier_features(coordinates, model.d_model, config.seed)
            network.embedding.weight.copy_(torch.from_numpy(features))
    if model.markov_head:
        from scipy.sparse import csr_array

        counts = sparse_transition_counts(trajectories, model.n_states)
        if config.time_reversal:
            counts = 0.5 * (counts + counts.T)
        if model.group_sizes:
            group = np.repeat(np.arange(model.n_groups), model.group_sizes)
            shape = (model.n_states, model.n_groups)
            counts = counts @ csr_array((np.ones(len(group)), (np.arange(len(group)), group)), shape=shape)
        network.start_at_markov(counts.toarray(), config.markov_pseudocount)
    return network


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of an optimiser step: linear warm-up, then cosine decay that ends at zero."""
    warmup = min(config.warmup_steps, config.n_steps // 2)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.lr_schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, config.n_steps - warmup)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def make_optimiser(model: NanoGPT, config: TrainConfig, heads: torch.nn.Module | None = None) -> torch.optim.AdamW:
    """Return AdamW; weight decay acts on the weights of linear layers, not on biases, norms, embeddings or counts.

    `heads` are parameters that only the training has. On a CUDA device the learning rate is a tensor there, so that a
    captured step can change it.
    """
    decayed: list[torch.nn.Parameter] = []
    free: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        linear = name.endswith("weight") and (
            name.startswith(("head", "group")) or ".attention." in name or ".mlp." in name
        )
        (decayed if linear else free).append(parameter)
    for parameter in () if heads is None else heads.parameters():
        (decayed if parameter.ndim == 2 else free).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    device = free[0].device
    rate = torch.tensor(config.learning_rate, device=device) if device.type == "cuda" else config.learning_rate
    return torch.optim.AdamW(
        groups,
        lr=rate,
        betas=(config.beta1, config.beta2),
        fused=True,
        capturable="graph" in resolve_compile(config, device, grouped=bool(model.config.group_sizes)),
    )


@contextmanager
def torch_settings(device: torch.device, n_threads: int | None) -> Iterator[None]:
    """Set PyTorch up for a training and put everything back: threads, determinism on the CPU, denormals, generators."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    # A module-level property, which type checkers do not see.
    deterministic_mode: Any = torch.utils.deterministic
    fill = deterministic_mode.fill_uninitialized_memory
    if n_threads is not None:
        torch.set_num_threads(n_threads)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True)
        deterministic_mode.fill_uninitialized_memory = False  # a safety net against bugs that costs a memset each
        torch.set_flush_denormal(True)  # moments of rarely seen states decay into denormals, which are slow
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        if n_threads is not None:
            torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
        deterministic_mode.fill_uninitialized_memory = fill
        torch.set_flush_denormal(False)
