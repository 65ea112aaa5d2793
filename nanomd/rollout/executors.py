"""The parts of a rollout, or the trainings of an experiment, as tasks: of processes here, Ray, Dask, or a SLURM array.

Tasks know nothing of each other and go on where they stopped, so one that died is simply run again. The libraries
are imported when they are asked for; nothing but paths and options travels to the workers.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nanomd.base.checks import check_choice, check_whole
from nanomd.base.errors import InputError, NanomdError, StoreError, one_line
from nanomd.base.extras import needs

ExecutorName = Literal["local", "ray", "dask", "slurm"]


@dataclass(frozen=True, kw_only=True)
class Executor:
    """Who runs the parts, and with what.

    Parameters
    ----------
    name : str
        ``"local"``: processes of this machine; ``"ray"`` and ``"dask"``: the cluster at `address`, or one of this
        machine; ``"slurm"``: an array of jobs, submitted by submitit.
    n_parts : int, optional
        By default one a worker.
    n_workers : int
        Parts at a time, of an engine that is started here, and at most of a SLURM array.
    n_threads : int
        CPU threads of a part.
    gpu : bool
        Whether a part needs a GPU of its own.
    retries : int
        How often a part that failed is run again.
    address : str, optional
        Of the Ray cluster or Dask scheduler; of SLURM, what submitit calls the cluster (``"slurm"``).
    timeout_min : int
        Of a job of SLURM.
    """

    name: ExecutorName = "local"
    n_parts: int | None = None
    n_workers: int = 2
    n_threads: int = 1
    gpu: bool = False
    retries: int = 2
    address: str | None = None
    timeout_min: int = 720

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("executor", self.name, ExecutorName)
        for name, low in {"n_workers": 1, "n_threads": 1, "retries": 0, "timeout_min": 1}.items():
            check_whole(name, getattr(self, name), low)
        if self.n_parts is not None:
            check_whole("n_parts", self.n_parts, 1)

    def parts(self, n_trajs: int) -> int:
        """Return the number of parts of so many trajectories; none is empty."""
        return min(self.n_parts or self.n_workers, n_trajs)

    def run(
        self,
        function: Callable[..., object],
        tasks: Sequence[tuple[Any, ...]],
        logs: Path,
        done: Callable[[int], object] = lambda _: None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Call `function` with the arguments of every task.

        Parameters
        ----------
        function : callable
            Of a module, so that workers find it.
        tasks : sequence of tuples
        logs : Path
            Where engines that keep logs keep them.
        done : callable
            Told the number of every task that is finished.
        labels : sequence of str, optional
            What the tasks are called in an error; "part 0 of 3" and so on by default.

        Raises
        ------
        StoreError
            If a task failed more often than it may, naming it and why.
        """
        engine = {"local": _local, "ray": _ray, "dask": _dask, "slurm": _slurm}[self.name]
        if not tasks:
            return
        names = [f"part {number} of {len(tasks)}" for number in range(len(tasks))] if labels is None else list(labels)
        engine(self, function, _Tasks(list(tasks), names, logs, done))


@dataclass(frozen=True)
class _Tasks:
    """What an engine is given."""

    arguments: list[tuple[Any, ...]]
    labels: list[str]
    logs: Path
    done: Callable[[int], object]

    def failed(self, number: int, error: BaseException) -> NanomdError:
        if isinstance(error, InputError):
            return error
        why = f"{self.labels[number]} failed ({one_line(error)})"
        return StoreError(f"{why}; what is complete is kept: repeat the command to go on")


def _local(executor: Executor, function: Any, tasks: _Tasks) -> None:
    left = dict.fromkeys(range(len(tasks.arguments)), executor.retries)
    context = multiprocessing.get_context("spawn")
    while left:
        with ProcessPoolExecutor(min(executor.n_workers, len(left)), mp_context=context) as pool:
            futures = {pool.submit(function, *tasks.arguments[number]): number for number in left}
            for future in as_completed(futures):
                number, error = futures[future], future.exception()
                if error is None:
                    del left[number]
                    tasks.done(number)
                elif isinstance(error, InputError) or (left[number] == 0 and not isinstance(error, BrokenProcessPool)):
                    pool.shutdown(cancel_futures=True)
                    raise tasks.failed(number, error) from None
                elif left[number] == 0:  # whichever worker died, its pool died with it
                    raise tasks.failed(number, RuntimeError("a worker process died")) from None
                else:
                    left[number] -= 1


def _ray(executor: Executor, function: Any, tasks: _Tasks) -> None:
    needs("executor 'ray'", "ray")
    import ray

    here = not ray.is_initialized()
    if here:
        cores = None if executor.address else executor.n_workers * executor.n_threads
        ray.init(executor.address, num_cpus=cores, include_dashboard=False, log_to_driver=False)
    try:
        remote = ray.remote(
            num_cpus=executor.n_threads,
            num_gpus=int(executor.gpu),
            max_retries=executor.retries,
            retry_exceptions=True,
        )(function)
        waiting = {remote.remote(*task): number for number, task in enumerate(tasks.arguments)}
        while waiting:
            ready = ray.wait(list(waiting), num_returns=1)[0][0]
            number = waiting.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                raise tasks.failed(number, cause) from None
            tasks.done(number)
    finally:
        if here:
            ray.shutdown()


def _dask(executor: Executor, function: Any, tasks: _Tasks) -> None:
    needs("executor 'dask'", "distributed")
    import distributed as untyped

    distributed: Any = untyped

    options: dict[str, Any] = {"address": executor.address} if executor.address else {
        "n_workers": executor.n_workers, "threads_per_worker": 1, "dashboard_address": None,
    }  # fmt: skip
    with distributed.Client(**options) as client:
        futures = {
            client.submit(function, *task, pure=False, retries=executor.retries): number
            for number, task in enumerate(tasks.arguments)
        }
        for future in distributed.as_completed(futures):
            number = futures[future]
            if (error := future.exception()) is not None:
                client.cancel(list(futures))
                raise tasks.failed(number, error)
            tasks.done(number)


def _slurm(executor: Executor, function: Any, tasks: _Tasks) -> None:
    needs("executor 'slurm'", "submitit")
    import submitit

    left = list(range(len(tasks.arguments)))
    for turn in range(executor.retries + 1):
        submitted = submitit.AutoExecutor(folder=str(tasks.logs / "slurm"), cluster=executor.address or "slurm")
        submitted.update_parameters(
            name="nanomd",
            timeout_min=executor.timeout_min,
            cpus_per_task=executor.n_threads,
            slurm_array_parallelism=executor.n_workers,
            **({"gpus_per_node": 1} if executor.gpu else {}),
        )
        columns = zip(*(tasks.arguments[number] for number in left), strict=True)
        jobs = submitted.map_array(function, *map(list, columns))
        failed: dict[int, BaseException] = {}
        for number, job in zip(left, jobs, strict=True):
            error = job.exception()
            if error is None:
                tasks.done(number)
            else:
                failed[number] = error
        if not failed:
            return
        left = list(failed)
        if turn == executor.retries:
            raise tasks.failed(left[0], failed[left[0]])


def array_script(command: str, n_parts: int, executor: Executor) -> str:
    """Return the job script that does the same by hand: an array of SLURM, a part a task; `command` may have options.

    What the parts are made into one by is for the user to run afterwards.
    """
    gpu = "#SBATCH --gpus-per-task=1\n" if executor.gpu else ""
    hours, minutes = divmod(executor.timeout_min, 60)
    return (
        "#!/bin/bash\n#SBATCH --job-name=nanomd\n"
        f"#SBATCH --array=0-{n_parts - 1}%{executor.n_workers}\n#SBATCH --cpus-per-task={executor.n_threads}\n"
        f"{gpu}#SBATCH --time={hours:02d}:{minutes:02d}:00\n#SBATCH --requeue\n"
        f'{command} --shard "$SLURM_ARRAY_TASK_ID/{n_parts}"\n'
    )
