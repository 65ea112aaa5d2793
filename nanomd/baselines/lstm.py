"""The LSTM baseline: embedding, LSTM layers, softmax over the next state (after Tsai, Kuo and Tiwary, 2020)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nanomd._native import rollout_uniform
from nanomd.base.checks import check_range
from nanomd.base.errors import InputError, NanomdError
from nanomd.base.progress import Progress
from nanomd.data.dtrajs import DtrajsLike, load_dtrajs, split_dtrajs
from nanomd.data.states import StateMap
from nanomd.model.scoring import weighted_nll
from nanomd.training.windows import WindowSampler

_CHUNK = 512  # frames scored at once; the state is carried on


@dataclass(frozen=True, slots=True, kw_only=True)
class LSTMConfig:
    """Size and training of the LSTM.

    Parameters
    ----------
    embedding_dim, hidden_dim, n_layers : int
        Widths and depth: 128 and 512 for molecules; 8 and 64 for four states.
    train_length, batch_size, n_steps : int
        Frames per window, windows per step, optimiser steps.
    learning_rate : float
        Adam's, with cosine decay to zero.
    validation_fraction : float
        Part of the frames held out, to choose the weights; 0 keeps the last ones.
    validation_interval : int
        Steps between validations.
    seed : int
    """

    embedding_dim: int = 128
    hidden_dim: int = 512
    n_layers: int = 1
    train_length: int = 100
    batch_size: int = 64
    n_steps: int = 1000
    learning_rate: float = 1e-3
    validation_fraction: float = 0.1
    validation_interval: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("embedding_dim", "hidden_dim", "n_layers", "batch_size", "n_steps", "validation_interval"):
            check_range(name, getattr(self, name), 1)
        check_range("train_length", self.train_length, 2)
        check_range("learning_rate", self.learning_rate, 0)
        check_range("validation_fraction", self.validation_fraction, 0, 0.9)
        check_range("seed", self.seed, 0, 2**63 - 1)


class LSTMNetwork(nn.Module):
    """Embedding, LSTM and a linear head; maps tokens (B, T) and a state to logits (B, T, V) and the next state."""

    def __init__(self, n_states: int, config: LSTMConfig) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.embedding = nn.Embedding(n_states, config.embedding_dim)
            self.lstm = nn.LSTM(config.embedding_dim, config.hidden_dim, config.n_layers, batch_first=True)
            self.head = nn.Linear(config.hidden_dim, n_states)

    def forward(
        self, tokens: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return logits (B, T, V) and the state after the last frame."""
        out, state = self.lstm(self.embedding(tokens), state)
        assert state is not None
        return self.head(out), state


class LSTMEstimator:
    """Learn the next-state distribution of discrete trajectories with an LSTM.

    Parameters
    ----------
    progress : Progress, optional
        Advanced by one a step.
    **options
        Fields of `LSTMConfig`.

    Examples
    --------
    >>> import numpy as np
    >>> estimator = LSTMEstimator(embedding_dim=4, hidden_dim=8, n_steps=2, train_length=10)
    >>> model = estimator.fit(np.tile([0, 1, 2], 100)).fetch_model()
    >>> [len(d) for d in model.generate(5, 2, seed=1)]
    [5, 5]
    """

    def __init__(self, *, progress: Progress | None = None, **options: Any) -> None:
        unknown = sorted(set(options) - set(LSTMConfig.__dataclass_fields__))
        if unknown:
            known = ", ".join(LSTMConfig.__dataclass_fields__)
            raise InputError(f"LSTMEstimator has no option {', '.join(unknown)}; it knows {known}")
        self.config, self.progress = LSTMConfig(**options), progress
        self._model: LSTMModel | None = None

    def fit(self, dtrajs: DtrajsLike) -> Self:
        """Train on arrays of raw labels, or on paths; negative labels cut a trajectory."""
        config = self.config
        labels = load_dtrajs(dtrajs)
        state_map = StateMap.fit(labels)
        tokens = state_map.encode(labels)
        if state_map.n_states < 2 or not tokens:
            raise InputError("dtrajs must visit at least two states in trajectories of at least 2 frames")
        fraction = config.validation_fraction
        training, validation = split_dtrajs(tokens, fraction) if fraction > 0 else (tokens, [])
        windows = WindowSampler(
            training,
            length=min(config.train_length, max(map(len, training)) - 1),
            batch_size=config.batch_size,
            seed=config.seed,
        )
        network = LSTMNetwork(state_map.n_states, config)
        optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate, fused=True)
        history: list[dict[str, float]] = []
        best, best_loss = _copy(network), math.inf
        for step in range(config.n_steps):
            for group in optimiser.param_groups:
                group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.n_steps))
            batch = windows.batch(step)
            loss = weighted_nll(network(batch.tokens)[0], batch.targets, batch.weights)
            if not torch.isfinite(loss):
                raise NanomdError(f"the LSTM's loss is {float(loss)} at step {step + 1}; lower learning_rate")
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            last = step + 1 == config.n_steps
            if validation and (last or (step + 1) % config.validation_interval == 0):
                held_out = -_mean_log_likelihood(network, validation, max_frames=32768)
                history.append({"step": step + 1, "loss": float(loss.detach()), "validation_loss": held_out})
                if held_out < best_loss:
                    best, best_loss = _copy(network), held_out
            if self.progress is not None:
                self.progress.update(1)
        if validation:
            network.load_state_dict(best)
        populations = np.bincount(np.concatenate(tokens), minlength=state_map.n_states).astype(np.float64)
        self._model = LSTMModel(network.eval(), state_map, populations / populations.sum(), history)
        return self

    def fetch_model(self) -> LSTMModel:
        """Return the trained model."""
        if self._model is None:
            raise InputError("the estimator has no model yet: call fit(dtrajs) first")
        return self._model


class LSTMModel:
    """A trained LSTM.

    Parameters
    ----------
    network : LSTMNetwork
    state_map : StateMap
    populations : (V,) float64
        Observed populations of the training data, from which rollouts start.
    history : list of dict
        Step, training loss and validation loss in nats per frame.
    """

    def __init__(
        self,
        network: LSTMNetwork,
        state_map: StateMap,
        populations: NDArray[np.float64],
        history: list[dict[str, float]],
    ) -> None:
        self.network, self.state_map, self.populations, self.history = network, state_map, populations, history

    @torch.no_grad()
    def generate(
        self,
        n_steps: int,
        n_trajs: int = 1,
        *,
        seed: int = 0,
        start: NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> list[NDArray[np.int64]]:
        """Roll out trajectories of raw labels, all together, one step at a time with the state carried on.

        Parameters
        ----------
        n_steps, n_trajs : int
            States per trajectory, and trajectories.
        seed : int
            Key of the counter-based random numbers, shared with the GPT's engines.
        start : (n_trajs,) raw labels, optional
            First states (not part of the output); drawn from the populations of the training data when None.
        progress : Progress, optional
            Advanced by `n_trajs` a step.

        Returns
        -------
        list of (n_steps,) int64
        """
        check_range("n_steps", n_steps, 1)
        check_range("n_trajs", n_trajs, 1)
        if start is None:
            rng = np.random.default_rng([seed, 1])
            current = rng.choice(self.state_map.n_states, size=n_trajs, p=self.populations).astype(np.int64)
        else:
            current = np.asarray(self.state_map.encode_labels(start), dtype=np.int64)
            if current.shape != (n_trajs,):
                raise InputError(f"start must hold {n_trajs} states, one per trajectory, got shape {current.shape}")
        network = self.network
        tokens = np.empty((n_trajs, n_steps), dtype=np.int32)
        state: tuple[Tensor, Tensor] | None = None
        for step in range(n_steps):
            logits, state = network(torch.from_numpy(current)[:, None], state)
            cumulative = torch.softmax(logits[:, 0].double(), dim=-1).cumsum(dim=-1).numpy()
            uniform = np.array([rollout_uniform(seed, step, trajectory) for trajectory in range(n_trajs)])
            below = (cumulative <= uniform[:, None]).sum(axis=1)
            current = np.minimum(below, self.state_map.n_states - 1)
            tokens[:, step] = current
            if progress is not None:
                progress.update(n_trajs)
        return [np.asarray(self.state_map.decode(row), dtype=np.int64) for row in tokens]

    def log_likelihood(self, dtrajs: DtrajsLike) -> float:
        """Return the mean log-likelihood of the next state in nats per frame; every frame sees its whole past."""
        tokens = self.state_map.encode(load_dtrajs(dtrajs))
        if not tokens:
            raise InputError("dtrajs hold no two successive assigned frames, so there is nothing to score")
        return _mean_log_likelihood(self.network, tokens)


def _copy(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@torch.no_grad()
def _mean_log_likelihood(
    network: LSTMNetwork, trajectories: Sequence[NDArray[Any]], max_frames: int | None = None
) -> float:
    total, number = 0.0, 0
    for group in _groups(trajectories):
        state: tuple[Tensor, Tensor] | None = None
        longest = len(group[0])
        frames = np.zeros((len(group), longest), dtype=np.int64)
        lengths = np.array([len(trajectory) for trajectory in group])
        for row, trajectory in zip(frames, group, strict=True):
            row[: len(trajectory)] = trajectory
        tokens = torch.from_numpy(frames)
        for begin in range(0, longest - 1, _CHUNK):
            stop = min(begin + _CHUNK, longest - 1)
            logits, state = network(tokens[:, begin:stop], state)
            scores = (
                logits.log_softmax(dim=-1).gather(-1, tokens[:, begin + 1 : stop + 1, None])[..., 0].double().numpy()
            )
            valid = np.arange(begin, stop)[None, :] < (lengths - 1)[:, None]
            total += float(scores[valid].sum())
            number += int(valid.sum())
            if max_frames is not None and number >= max_frames:
                return total / number
    return total / number


def _groups(trajectories: Sequence[NDArray[Any]], size: int = 32) -> Iterator[list[NDArray[Any]]]:
    """Yield trajectories of similar length together, the longest first."""
    ordered = sorted(trajectories, key=lambda trajectory: -len(trajectory))
    for begin in range(0, len(ordered), size):
        yield ordered[begin : begin + size]
