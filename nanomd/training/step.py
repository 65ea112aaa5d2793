"""One optimiser step, eager, compiled or captured: gather, one or two passes, backward, all-reduce, clip, AdamW.

The random numbers of the loss have two sources (`nanomd.training.draws`). On a CPU, eagerly, a generator: the head runs
only where a state is drawn. Everywhere else counters: shapes never change, and nothing asks the device. Then the host
only prepares: it chooses the windows and the rates of `CHUNK` steps at a time, sends them at once, and the step reads
its row at a cursor that lives on the device.

``compile`` of a `TrainConfig` says how that step runs:

``none``
    Operation by operation.
``compile``
    The loss and its gradient are one `torch.compile` region.
``graph``
    The whole step is one CUDA graph, from the gathering of the windows to the optimiser, two of them where a training
    has steps with and without a first pass. A graph is captured after some steps on a copy of the state, so that every
    step of the training, the first as well, is a replay.
``compile-graph``
    A CUDA graph of the step with the compiled loss.
``native``
    The compiled step of the CPU (`nanomd.training.native`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanomd.base.config import TrainConfig
from nanomd.base.errors import BackendUnavailableError, InputError
from nanomd.base.nvtx import annotate
from nanomd.kernels import registry
from nanomd.model.network import NanoGPT
from nanomd.training.distributed import World
from nanomd.training.draws import CounterDraws, Draws, GeneratorDraws, Share, mix_rate
from nanomd.training.horizon_heads import HorizonHeads
from nanomd.training.loss_scale import LossScale
from nanomd.training.native import NativeStep, native_obstacle
from nanomd.training.objectives import ExtraTerm, training_loss
from nanomd.training.windows import STREAM_DROPOUT, STREAM_MIX, Batch, WindowSampler, step_seed

CHUNK = 256  # steps whose windows and rates are sent to the device at once
_WARM_UP = 3  # steps before a capture: libraries make their handles, kernels are compiled
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_compile(config: TrainConfig, device: torch.device, n_processes: int = 1, grouped: bool = False) -> str:
    """Return how steps run: ``"auto"`` takes a graph on a CUDA device, and on a CPU the compiled step where it can.

    Several processes are not captured unless asked for: NCCL inside of a graph depends on its version. Of states in
    groups (`grouped`), what a batch holds decides the shapes, and steps run operation by operation.

    Raises
    ------
    BackendUnavailableError
        For a CUDA graph without CUDA.
    InputError
        For ``"native"`` where the compiled step cannot run the training.
    """
    obstacle = native_obstacle(config, device, n_processes, grouped)
    if grouped and config.compile not in ("auto", "none"):
        raise InputError(f"compile must be auto or none for states in groups, got {config.compile}")
    if config.compile == "auto":
        if grouped:
            return "none"
        if device.type == "cuda":
            return "graph" if n_processes == 1 else "none"
        return "native" if obstacle is None else "none"
    if config.compile == "native" and obstacle is not None:
        raise InputError(f"compile must not be native for this training ({obstacle}); use auto")
    if "graph" in config.compile and device.type != "cuda":
        raise BackendUnavailableError(
            f"compile '{config.compile}' needs a CUDA device, but the training runs on {device.type}; "
            "use 'none' or 'compile'"
        )
    return config.compile


class TrainingStep:
    """What `nanomd.training.loop` calls for every optimiser step.

    Parameters
    ----------
    model : NanoGPT
    optimiser : AdamW
        With a learning rate that is a tensor on CUDA devices; see `nanomd.training.loop.make_optimiser`.
    windows : WindowSampler
    config : TrainConfig
    learning_rate : callable
        Optimiser step to learning rate.
    world : World
        The processes that share every step.
    heads : HorizonHeads, optional
        A further term of the loss, with parameters of its own.
    fixed : bool, optional
        Whether shapes are fixed; decided by device, `compile` and `backend` when None. Where it is given, ``"auto"``
        takes no compiled step, which has no such choice.
    """

    def __init__(
        self,
        model: NanoGPT,
        optimiser: torch.optim.Optimizer,
        windows: WindowSampler,
        config: TrainConfig,
        *,
        learning_rate: Callable[[int], float],
        world: World | None = None,
        heads: HorizonHeads | None = None,
        fixed: bool | None = None,
    ) -> None:
        self.model, self.optimiser, self.windows, self.config = model, optimiser, windows, config
        self.world = World() if world is None else world
        self.extra: ExtraTerm | None = None if heads is None else partial(heads.gradient, model)
        self.learning_rate = learning_rate
        self.device = windows.device
        grouped = bool(model.config.group_sizes)
        if grouped and heads is not None:
            raise InputError("lookahead_lags must be empty for states in groups: their heads score all states at once")
        self.mode = resolve_compile(config, self.device, self.world.size, grouped)
        fixed = False if grouped else fixed
        if fixed is not None and config.compile == "auto" and self.mode == "native":
            self.mode = "none"
        self.parameters = list(model.parameters())
        own = set(map(id, self.parameters))
        self.parameters += [p for group in optimiser.param_groups for p in group["params"] if id(p) not in own]
        self.first, self.count = self.world.rows(config.batch_size)
        self.scale = LossScale(self.device) if config.precision == "fp16" else None
        self.mixer = torch.Generator(device=self.device)
        self.fixed = self._needs_fixed_shapes() if fixed is None else fixed
        self._loss: Callable[..., Tensor] = self._fixed_loss
        self._traced = False
        self._graphs: dict[bool, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._flat: Tensor | None = None
        self._native: NativeStep | None = None
        if self.mode == "native":
            self._native = NativeStep(model, optimiser, windows, config, learning_rate, heads)
        if self.world.size > 1:
            self._flat, self._views = self._make_flat()
        if self.fixed:
            shape = (config.batch_size, windows.length)
            self._coins = torch.zeros(shape, dtype=torch.float64, device=self.device)
            rows = CHUNK + _WARM_UP  # the steps before a capture may begin at the last row
            self._plan = torch.zeros((rows, config.batch_size, 3), dtype=torch.int64, device=self.device)
            self._rates = torch.zeros((rows, 2), dtype=torch.float64, device=self.device)
            self._place = torch.zeros(2, dtype=torch.int64, device=self.device)  # row of the tables, and step
            self._next = self._end = -1  # the step that the tables are ready for, and where they end

    def __call__(self, step: int) -> Tensor:
        """Take an optimiser step, and return its loss (nats per frame), on the device."""
        with annotate("step"):
            if self._native is not None:
                return self._native(step)
            self._seed(step)
            if not self.fixed:
                return self._finish(self._sparse_loss(step))
            if step != self._next or step == self._end:
                self._load_tables(step)
            self._next = step + 1
            two_passes = mix_rate(step, self.config) > 0
            if two_passes and self.config.objective == "two_pass_hidden":
                self._coins.uniform_(generator=self.mixer)
            for group in self.optimiser.param_groups:
                if not isinstance(group["lr"], Tensor):
                    group["lr"] = self.learning_rate(step)
            if "compile" in self.mode and not self._traced:
                self._run_once(step)
            if "graph" not in self.mode:
                return self._fixed_step(two_passes)
            if two_passes not in self._graphs:
                self._graphs[two_passes] = self._capture(two_passes)
                self._seed(step)  # the steps before the capture drew numbers
            graph, loss = self._graphs[two_passes]
            graph.replay()
            return loss.clone()  # the next replay writes over it

    # ---- the step

    def _seed(self, step: int) -> None:
        config, shape = self.config, self.model.config
        if config.objective != "one_pass":
            self.mixer.manual_seed(step_seed(config.seed, STREAM_MIX, step))
        if shape.dropout or shape.final_dropout:
            seed = step_seed(config.seed, STREAM_DROPOUT, step)
            torch.manual_seed(seed ^ self.world.rank)  # every process has other windows, and drops other units

    def _sparse_loss(self, step: int) -> Tensor:
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate(step)
        with annotate("windows"):
            batch = self.windows.batch(step, slice(self.first, self.first + self.count))
        rate, share = mix_rate(step, self.config), self._share(batch.total)
        return self._loss_of(batch, GeneratorDraws(self.config, rate, self.mixer, share) if rate > 0 else None, share)

    def _fixed_loss(self, plan: Tensor, rate: Tensor, step: Tensor, coins: Tensor, two_passes: bool) -> Tensor:
        batch = self.windows.gather(plan, slice(self.first, self.first + self.count))
        share = self._share(batch.total)
        return self._loss_of(batch, CounterDraws(self.config, rate, step, coins, share) if two_passes else None, share)

    def _loss_of(self, batch: Batch, draws: Draws | None, share: Share | None) -> Tensor:
        total = None if share is None else share.total
        with self._autocast():
            return training_loss(
                self.model,
                batch.tokens,
                batch.targets,
                batch.weights,
                config=self.config,
                draws=draws,
                extra=self.extra,
                total=total,
            )

    def _fixed_step(self, two_passes: bool) -> Tensor:
        plan = self._plan.index_select(0, self._place[:1])[0]
        rates = self._rates.index_select(0, self._place[:1])[0]
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].copy_(rates[0])
        loss = self._finish(self._loss(plan, rates[1:], self._place[1:], self._coins, two_passes))
        self._place.add_(1)
        return loss

    def _finish(self, loss: Tensor) -> Tensor:
        """Backward, all-reduce, clip and optimiser; returns the loss of the whole step."""
        with annotate("backward"):
            self.optimiser.zero_grad(set_to_none=True)
            (loss if self.scale is None else self.scale.scaled(loss)).backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        if self._flat is not None:
            with annotate("all-reduce"):
                loss = self._sum_gradients(loss)
        with annotate("optimiser"):
            if self.scale is None:
                torch.nn.utils.clip_grad_norm_(self.parameters, self.config.gradient_clip)
            else:
                self.scale.unscale_and_clip(self.parameters, self.config.gradient_clip, self.optimiser)
            self.optimiser.step()
            if self.scale is not None:
                self.scale.update()
        return loss

    def _autocast(self) -> Any:
        if self.config.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, _DTYPES[self.config.precision], cache_enabled="graph" not in self.mode)

    # ---- several processes

    def _share(self, total: Tensor) -> Share | None:
        return None if self.world.size == 1 else Share(self.first, self.count, self.config.batch_size, total)

    def _make_flat(self) -> tuple[Tensor, list[Tensor]]:
        sizes = [parameter.numel() for parameter in self.parameters]
        flat = torch.zeros(sum(sizes) + 1, device=self.device)  # the loss is the last
        pieces = torch.split(flat[:-1], sizes)
        return flat, [piece.view_as(p) for piece, p in zip(pieces, self.parameters, strict=True)]

    @torch.no_grad()
    def _sum_gradients(self, loss: Tensor) -> Tensor:
        assert self._flat is not None
        for parameter, view in zip(self.parameters, self._views, strict=True):
            if parameter.grad is None:
                view.zero_()
        found = [(v, p.grad) for v, p in zip(self._views, self.parameters, strict=True) if p.grad is not None]
        torch._foreach_copy_([view for view, _ in found], [gradient for _, gradient in found])
        self._flat[-1:].copy_(loss.reshape(1))
        self.world.sum(self._flat)
        for parameter, view in zip(self.parameters, self._views, strict=True):
            parameter.grad = view
        return self._flat[-1].clone()

    # ---- fixed shapes

    def _needs_fixed_shapes(self) -> bool:
        if self.device.type != "cpu" or self.mode != "none":
            return True
        request = registry.Request(self.device, torch.float32, {"n_states": self.model.config.n_states})
        return bool(registry.resolve("sample_mix", self.config.backend, request).name != "reference")

    def _load_tables(self, step: int) -> None:
        """Choose windows and rates of the next steps, and send them without waiting."""
        number = min(CHUNK, self.config.n_steps - step)
        with annotate("windows"):
            steps = range(step, step + number)
            rates = np.array([(self.learning_rate(s), mix_rate(s, self.config)) for s in steps])
            for table, values in ((self._plan, self.windows.plan(step, number)), (self._rates, rates)):
                table[:number].copy_(self._to_send(torch.from_numpy(values)), non_blocking=True)
            self._place.copy_(self._to_send(torch.tensor([0, step])), non_blocking=True)
        self._end = step + number

    def _to_send(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    # ---- torch.compile

    def _run_once(self, step: int) -> None:
        """Run all of the loss before it is traced: tables are made, and backends chosen and logged, outside."""
        both = self.config.objective != "one_pass"
        with torch.no_grad():
            self._fixed_loss(self._plan[0], self._rates[0, 1:], self._place[1:], self._coins, both)
        self._seed(step)
        self._loss = torch.compile(self._fixed_loss, dynamic=False)
        self._traced = True

    # ---- CUDA graphs

    def _capture(self, two_passes: bool) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        pool = next(iter(self._graphs.values()))[0].pool() if self._graphs else None
        with annotate("capture"), self._unchanged():
            side = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):
                for _ in range(_WARM_UP):
                    self._fixed_step(two_passes)
            torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Other threads, such as NCCL's watchdog, may call CUDA meanwhile.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            loss = self._fixed_step(two_passes)
        return graph, loss

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Put back, in place, everything that a step changes."""
        changed = [*self.parameters, self._place, *([] if self.scale is None else [self.scale.state])]
        saved = [tensor.detach().clone() for tensor in changed]
        moments = {p: {k: v.clone() for k, v in self.optimiser.state[p].items()} for p in self.optimiser.state}
        yield
        with torch.no_grad():
            _copy(saved, changed)
            for parameter, state in self.optimiser.state.items():
                for name, value in state.items():  # AdamW starts from zeros
                    value.copy_(moments[parameter][name]) if parameter in moments else value.zero_()


def _copy(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    for value, target in zip(values, into, strict=True):
        target.copy_(value)
