"""`generate` in parts: by an executor, merged at the end; and which parts are done, missing or broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nanomd.base.errors import InputError, StoreError
from nanomd.base.progress import progress_bar
from nanomd.rollout.parts import Part, find_parts
from nanomd.rollout.store import TokenStore
from nanomd.study.folder import RunFolder
from nanomd.study.generate import generate, merge

if TYPE_CHECKING:
    from nanomd.rollout.executors import Executor
    from nanomd.rollout.request import RolloutRequest


def generate_in_parts(
    run: str | Path,
    request: RolloutRequest,
    executor: Executor,
    *,
    backend: str = "auto",
    precision: str = "fp32",
    progress: bool | None = None,
) -> str:
    """Generate all parts of a rollout by an executor and merge them; repeated, it goes on with what is missing.

    Parameters
    ----------
    run : path
        The run folder, where all workers see it.
    request, backend, precision :
        See `nanomd.study.generate.generate`.
    executor : Executor
    progress : bool, optional
        Whether to show a bar of parts.
    """
    if request.part is not None:
        raise InputError("--executor makes all parts; leave --shard out")
    folder = RunFolder(run, create=False)
    folder.require("train", folder.model, f"nanomd train --run {run}")
    if TokenStore.exists(folder.generated):
        return merge(run)  # says that it is there already, or ends a merge that was killed
    count = executor.parts(request.n_trajs)
    found = {part.count for part in find_parts(folder.generated)}
    if found - {count}:
        other = min(found - {count})
        raise StoreError(f"{folder.generated} holds parts of {other}, not {count}: use --parts {other}, or remove them")
    own = replace(request, n_threads=executor.n_threads, resume=True, progress=None)
    tasks = [(str(folder.path.resolve()), replace(own, part=Part(i, count)), backend, precision) for i in range(count)]
    bar = progress_bar(count, f"generate on {executor.name}", "part", progress)
    try:
        executor.run(_part, tasks, folder.path.resolve() / "logs", lambda _: bar.update(1))
    finally:
        bar.close()
    return merge(run)


def _part(run: str, request: RolloutRequest, backend: str, precision: str) -> None:
    generate(run, request, backend=backend, precision=precision, progress=False)


def status(run: str | Path) -> str:
    """Say in a line a part which are complete, unfinished, missing or broken; or that the rollout is whole."""
    folder = RunFolder(run, create=False)
    if TokenStore.exists(folder.generated):
        return f"the rollout is whole: {_state(folder.generated)}"
    parts = find_parts(folder.generated)
    if not parts:
        return f"no parts in {folder.generated}"
    count = max(part.count for part in parts)
    lines, states = [], []
    for index in range(count):
        path = parts.get(Part(index, count))
        states.append("missing" if path is None else _state(path))
        lines.append(f"part {index} of {count}: {states[-1]}")
    others = sum(part.count != count for part in parts)
    done = sum(state == "complete" for state in states)
    lines.append(f"{done} of {count} parts complete" + (f"; {others} parts of another division" if others else ""))
    return "\n".join(lines)


def _state(path: Path) -> str:
    try:
        if not TokenStore.exists(path):
            return "begun, no steps yet"
        store = TokenStore.open(path)
        store.verify()
    except (StoreError, InputError, OSError) as error:
        return f"broken: {error}"
    if store.complete:
        return "complete"
    steps = sum((s.last - s.first) * s.steps_done for s in store.shards)
    return f"{100 * steps / (store.layout.n_steps * store.layout.n_trajs):.0f} % of its steps"
