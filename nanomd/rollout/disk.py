"""A run whose tokens go to disk while they are drawn: memory does not grow with its steps, and it can be resumed."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nanomd import _native
from nanomd.base.arrays import read_npz
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import lock_folder
from nanomd.rollout.observables import ObservablesResult
from nanomd.rollout.parts import prompts_digest, refuse_parts
from nanomd.rollout.result import Rollout
from nanomd.rollout.run import Run
from nanomd.rollout.store import TokenStore

_DIGESTS = {"model_sha256": "the weights of another model", "prompts_digest": "other starts"}

COMMIT_SECONDS = 10.0  # between two declarations of progress on disk
COMMIT_TOKENS = 1 << 24  # at most, which bounds the memory of a rollout to disk


def run_to_disk(run: Run, out: Path, resume: bool) -> Rollout:
    """Generate into the folder `out`, or into that of the part in it."""
    part = run.request.part
    if part is None:
        refuse_parts(out)
    elif TokenStore.exists(out):
        raise InputError(f"{out} holds a merged or whole rollout already; choose another folder")
    else:
        out = part.folder(out)
    with lock_folder(out):
        store = _open_store(run, out, resume)
        store.sweep()
        state = _restore(run, store)
        for index in range(len(store.shards)):
            _fill(run, store, index, state if state.get("state_shard") == index else None)
        return Rollout.from_store(store)


def _open_store(run: Run, out: Path, resume: bool) -> TokenStore:
    """Begin a store, or take up one that the same request has begun."""
    identity, layout = _identity(run), run.layout()
    if not (resume and TokenStore.exists(out)):
        part = run.request.part
        info = run.result(np.zeros((0, 0), run.dtype), 0.0).describe()
        return TokenStore.create(out, layout, identity, info if part is None else {**info, "shard": part.to_list()})
    store = TokenStore.open(out)
    keys = ["n_trajs", "n_steps", "stride", "keeps_tokens"]
    longer = layout.n_steps > store.layout.n_steps
    if longer:
        keys.remove("n_steps")
    asked = {**{key: getattr(layout, key) for key in keys}, **identity}
    found = {**{key: getattr(store.layout, key) for key in keys}, **store.run}
    for key, value in asked.items():
        if found.get(key) == value:
            continue
        if key in _DIGESTS:
            raise InputError(
                f"{out} holds a rollout with {_DIGESTS[key]}, so it cannot be resumed; use the same or another folder"
            )
        raise InputError(
            f"{out} holds a rollout with {key} = {found.get(key)!r}, so it cannot be resumed with {value!r}; "
            "use the same options or another folder"
        )
    described = run.result(np.zeros((0, 0), run.dtype), 0.0).describe()
    for key, what in {"state_map": "other labels of its states", "frame_interval": "another frame interval"}.items():
        if store.info.get(key) != described[key]:
            raise InputError(f"{out} holds a rollout with {what}, so it cannot be resumed; use another folder")
    if longer:
        store.lengthen(layout.n_steps, lambda index: _tail(run, store, index))
    return store


def _tail(run: Run, store: TokenStore, index: int) -> NDArray[np.uint16]:
    """Return the latest tokens of a shard that keeps every state, as many as it takes to go on."""
    shard, begin = store.shards[index], run.begin.tokens
    n_known = run.begin.n_before + begin.shape[1] + shard.steps_done
    needed = run.engine.replay_length(run.config.mode, run.config.hop_keep or 0, n_known)
    latest = np.concatenate((begin[shard.first : shard.last], store.tokens(index)[:, -needed:]), axis=1)
    return np.ascontiguousarray(latest[:, -needed:], dtype=np.uint16)


def _identity(run: Run) -> dict[str, Any]:
    """Return what determines the tokens and the observables, as plain values."""
    digest = hashlib.sha256()
    for name in sorted(run.files.tensors):
        digest.update(name.encode() + b"\0")
        digest.update(np.ascontiguousarray(run.files.tensors[name]).tobytes())
    config, observables = run.config, run.request.observables
    return {
        "first_trajectory": run.first_trajectory,
        "mode": config.mode,
        "hop_keep": config.hop_keep,
        "seed": config.seed,
        "sampling_temperature": config.sampling_temperature,
        "precision": config.precision,
        "arithmetic": _arithmetic(run.engine.name),
        "model_config": run.files.config.to_dict(),
        "model_sha256": digest.hexdigest(),
        "prompt_length": run.begin.prompt_length,
        "prompts_digest": prompts_digest(run.begin.tokens, run.first_trajectory),
        "observables": None if observables is None else observables.to_dict(),
        **({"first_step": run.begin.first_step} if run.begin.first_step else {}),
    }


def _arithmetic(engine_name: str) -> str:
    """Return what decides the last bits: instruction sets without fused operations round differently, for one."""
    if engine_name.startswith("cuda"):
        return "cuda"
    return {"reference": "float64", "cpu/sse2": "unfused"}.get(engine_name, "fused")


def _restore(run: Run, store: TokenStore) -> dict[str, Any]:
    """Take up the observables of all complete steps; return the state of the shard under way, if any."""
    if run.spec is None or store.observables is None:
        return {}
    file = store.path / store.observables
    try:
        arrays = read_npz(file)
        result = ObservablesResult.from_arrays(arrays)
        if result.observables != run.request.observables:
            raise InputError("it holds other observables than asked for")
        run.totals = result.totals
        if "state_shard" not in arrays:
            return {}
        return {**arrays, "state_shard": int(arrays["state_shard"])}
    except (InputError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise StoreError(f"{file} is damaged: {error}") from None


def _fill(run: Run, store: TokenStore, index: int, state: dict[str, Any] | None) -> None:
    """Generate what a shard lacks."""
    shard, layout = store.shards[index], store.layout
    rows, done = shard.last - shard.first, shard.steps_done
    if done:
        run.skip(rows * done)
    if done == layout.n_steps:
        return
    watch = run.watch(rows, state)
    if watch is not None and done and state is None:
        _observe_stored(run, store, index, watch)
    session = run.open(shard.first, shard.last, store.tail(index), done, watch)
    steps = max(1, (1 << 16) // rows)
    while done < layout.n_steps:
        steps = min(steps, layout.n_steps - done)
        begun = time.perf_counter()
        tokens = np.empty((rows, layout.stored_before(done + steps) - layout.stored_before(done)), run.dtype)
        run.draw(session, watch, done, steps, tokens)
        seconds = time.perf_counter() - begun
        store.info["seconds"] = float(store.info.get("seconds", 0.0)) + seconds
        done += steps
        if done == layout.n_steps:
            run.finish(watch)
        store.append(index, steps, tokens, session.history(), _declared(run, watch, index, done < layout.n_steps))
        # Declaring progress costs a few writes that wait for the disk: do it every few seconds.
        faster = min(4.0, max(0.25, COMMIT_SECONDS / max(seconds, 1e-3)))
        most = COMMIT_TOKENS // rows if layout.keeps_tokens else layout.n_steps
        steps = max(1, min(int(steps * faster), most))


def _observe_stored(run: Run, store: TokenStore, index: int, watch: _native.NativeObservables) -> None:
    """Count what a shard keeps, where the observables do not reach so far: the rollout was made longer."""
    shard = store.shards[index]
    if store.layout.stride != 1 or not store.layout.keeps_tokens:
        raise StoreError(f"{store.path} has no observables of the first {shard.steps_done} steps of {shard.file}")
    tokens = store.tokens(index)
    most = max(1, COMMIT_TOKENS // len(tokens))
    for begin in range(0, shard.steps_done, most):
        watch.add(np.ascontiguousarray(tokens[:, begin : begin + most]), run.n_threads)


def _declared(
    run: Run, watch: _native.NativeObservables | None, index: int, under_way: bool
) -> dict[str, NDArray[Any]] | None:
    """Return the observables of all complete steps, with the state of the shard under way."""
    if watch is None or run.request.observables is None:
        return None
    arrays = ObservablesResult(run.request.observables, run.files.state_map, watch.totals()).to_arrays()
    if under_way:
        arrays |= {
            "state_shard": np.array(index),
            "state_counters": watch.counters(),
            "state_recent": watch.recent(),
        }
    return arrays
