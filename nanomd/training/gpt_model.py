"""`GPTModel`: a trained nano-GPT, which generates, scores, saves, and is fitted further."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from nanomd.base.config import ModelConfig
from nanomd.base.errors import InputError
from nanomd.base.progress import Progress
from nanomd.base.units import FrameInterval
from nanomd.data.dtrajs import DtrajsLike, load_dtrajs, stride_trajectories
from nanomd.data.states import StateMap
from nanomd.model.files import ModelFiles, load_model_files, save_model

if TYPE_CHECKING:
    from nanomd.model.network import NanoGPT
    from nanomd.rollout.sampler import Rollout


class GPTModel:
    """A trained nano-GPT with what belongs to it: state map, start states, time unit, history.

    Parameters
    ----------
    files : ModelFiles
        What a model folder holds.
    history : sequence of dict
        Training metrics; empty for a model that was loaded.

    Examples
    --------
    >>> import numpy as np
    >>> from nanomd import GPTEstimator
    >>> GPTEstimator("tiny", n_steps=5, seed=1, frame_interval="0.2 ns").fit(np.tile([3, 3, 7], 200)).fetch_model()
    GPTModel(2 states, 2 layers of width 32, window 32 frames of 0.2 ns, 17,286 parameters)
    """

    def __init__(self, files: ModelFiles, history: Sequence[Mapping[str, float]] = ()) -> None:
        self._files = files
        self.history: list[dict[str, float]] = [dict(record) for record in history]
        self._module: NanoGPT | None = None

    def __repr__(self) -> str:
        config, size = self.config, sum(tensor.size for tensor in self._files.tensors.values())
        frames = f"{config.context_length} {'frames' if self.frame_stride == 1 else 'steps'} of {self.frame_interval}"
        frames = frames.removesuffix(" of 1 frame")
        return (
            f"GPTModel({config.n_states} states, {config.n_layer} layers of width {config.d_model}, window {frames}, "
            f"{size:,} parameters)"
        )

    @property
    def config(self) -> ModelConfig:
        """The shape of the model."""
        return self._files.config

    @property
    def state_map(self) -> StateMap:
        """The map between raw labels and tokens."""
        return self._files.state_map

    @property
    def frame_interval(self) -> FrameInterval:
        """The time of a step, which is `frame_stride` frames of the data."""
        return self._files.frame_interval

    @property
    def frame_stride(self) -> int:
        """Frames of the data a step."""
        return self._files.frame_stride

    def encode(self, dtrajs: DtrajsLike) -> list[NDArray[Any]]:
        """Return what the model reads of raw labels: tokens of every `frame_stride`-th frame, all offsets in turn.

        Unassigned frames (negative labels) cut a trajectory; pieces of a single step are left out.

        Raises
        ------
        InputError
            For states that the model does not know.
        """
        return stride_trajectories(self.state_map.encode(load_dtrajs(dtrajs)), self.frame_stride)

    @property
    def provenance(self) -> dict[str, Any]:
        """How the model came to be."""
        return dict(self._files.provenance)

    @property
    def module(self) -> NanoGPT:
        """The PyTorch module, on the CPU, in evaluation mode."""
        if self._module is None:
            from nanomd.model.network import NanoGPT

            self._module = NanoGPT(self.config)
            self._module.load_tensors(self._files.tensors)
            self._module.eval()
        return self._module

    def to_files(self) -> ModelFiles:
        """Return what `Sampler` and `save_model` take."""
        return self._files

    def save(self, path: str | Path) -> Path:
        """Write a model folder: safetensors weights and JSON."""
        save_model(path, self._files)
        return Path(path)

    def refit(
        self,
        dtrajs: DtrajsLike,
        *,
        both_ways: bool = False,
        pseudocount: float = 10.0,
        ridge: float = 30.0,
        device: str = "auto",
        n_threads: int | None = None,
        progress: Progress | None = None,
    ) -> GPTModel:
        """Return a model whose output layer is fitted to all transitions of the data, the other layers as they are.

        A training does it by itself, unless ``refit="off"``: this is for models that were trained without, or for
        further data of the same dynamics. See `nanomd.training.refit` for what it does and why. A model without a
        markov head gets one.

        Parameters
        ----------
        dtrajs : arrays or paths
            Raw labels, usually the training data.
        both_ways : bool
            Read trajectories backwards too; for equilibrium data that were learnt with `time_reversal`.
        pseudocount, ridge : float
            How strongly few data leave the layer as trained: observations in each state, and a ridge on the weights.
        device : str
            ``"auto"``, ``"cpu"`` or ``"cuda"``.
        n_threads : int, optional
            CPU threads; PyTorch's own choice when None.
        progress : Progress, optional
            Told how far the work is.

        Raises
        ------
        InputError
            For states that the model does not know, no transition at all, or more than 4096 states.
        """
        from nanomd.training.refit_files import refit_files

        files = refit_files(
            self._files,
            self.encode(dtrajs),
            both_ways=both_ways,
            pseudocount=pseudocount,
            ridge=ridge,
            device=device,
            n_threads=n_threads,
            note=None if progress is None else progress.note,
        )
        return GPTModel(files, history=self.history)

    def mask_unseen(self, dtrajs: DtrajsLike, *, both_ways: bool = False) -> GPTModel:
        """Return a model that never makes a transition, frame to frame, that the data do not show.

        Next-state training gives every state a little probability from everywhere; over a high barrier that leak can be
        faster than the real crossings. The mask removes it, and with it every rare transition that the data happen to
        have missed: rates can only be too slow. So it is never applied unasked. It lives in the markov head, which a
        model without one gets, empty but for the mask; probabilities of seen transitions keep their ratios. A
        state that only ends trajectories keeps its row.

        Parameters
        ----------
        dtrajs : arrays or paths
            Raw labels, usually the training data.
        both_ways : bool
            A transition counts as seen if its reverse is; for equilibrium data that was learnt with `time_reversal`.

        Raises
        ------
        InputError
            For states that the model does not know.
        """
        from nanomd.model.mask import mask_unseen

        files = mask_unseen(self._files, self.encode(dtrajs), both_ways)
        return GPTModel(files, history=self.history)

    def generate(self, n_steps: int, n_trajs: int = 1, *, backend: str = "auto", **options: Any) -> Rollout:
        """Roll out trajectories; the options are those of `nanomd.Sampler.generate` (start, mode, seed, stride, ...).

        Parameters
        ----------
        n_steps, n_trajs : int
            States per trajectory, and trajectories.
        backend : str
            ``"auto"``, ``"cpu"``, ``"cuda"``, or ``"reference"``: eager PyTorch without a cache, slow and readable.
        """
        from nanomd.rollout.sampler import Sampler

        return Sampler(self._files, backend=backend).generate(n_steps, n_trajs, **options)

    def log_likelihood(self, dtrajs: DtrajsLike) -> float:
        """Return the mean log-likelihood of the next state in nats per step, by teacher forcing.

        Every frame sees what a rollout would see: L (W - 1) + 1 frames with rotary positions, the hop window with
        learned ones. The first frames of a trajectory have less, and count.

        Raises
        ------
        InputError
            For states that the model does not know, or no transition at all.
        """
        from nanomd.model.scoring import mean_log_likelihood

        tokens = self.encode(dtrajs)
        if not tokens:
            raise InputError("dtrajs hold no two successive assigned frames (or steps), so there is nothing to score")
        return mean_log_likelihood(self.module, tokens)


def load_model(path: str | Path) -> GPTModel:
    """Load a model folder written by `GPTModel.save` or ``nanomd train``."""
    return GPTModel(load_model_files(path))
