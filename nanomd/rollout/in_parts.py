"""A rollout made in parts by an executor's workers, and merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nanomd.base.errors import InputError
from nanomd.model.files import ModelFiles, save_model
from nanomd.rollout.executors import Executor
from nanomd.rollout.parts import Part, find_parts, merge_parts
from nanomd.rollout.request import RolloutRequest
from nanomd.rollout.result import Rollout
from nanomd.rollout.store import TokenStore


def run_in_parts(
    files: ModelFiles,
    request: RolloutRequest,
    executor: Executor,
    make: Callable[[str, str, str, RolloutRequest], None],
    backend: str,
    precision: str,
) -> Rollout:
    """Make all parts in a folder that all workers see; repeated, it goes on.

    Parameters
    ----------
    files : ModelFiles
        Saved beside the parts, for the workers.
    request : RolloutRequest
        Of the whole.
    executor : Executor
    make : callable
        Makes a part from the folder of the model, backend, precision and request: a function that workers can import.
    backend, precision : str
        Those of every part, so that all are made alike.

    Raises
    ------
    InputError
        Without a folder, for a part, or where a whole rollout is.
    """
    if request.out is None or request.part is not None or request.first_trajectory:
        raise InputError("executor= makes all parts in a folder: give out=, and neither shard nor first_trajectory")
    out = request.out.resolve()
    if TokenStore.exists(out) and not find_parts(out):
        raise InputError(f"{out} holds a whole rollout already: Rollout.load reads it")
    if TokenStore.exists(out):  # a merge that was killed
        return merge_parts(out)
    model = save_model(out / ".model", files)
    count = executor.parts(request.n_trajs)
    own = replace(request, out=out, n_threads=executor.n_threads, resume=True, progress=None, cancel=None)
    tasks = [(str(model), backend, precision, replace(own, part=Part(i, count))) for i in range(count)]
    executor.run(make, tasks, out / ".logs")
    return merge_parts(out)
