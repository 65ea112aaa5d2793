"""The steps that make something in a run folder: simulate, tokenize, train; `nanomd.study.judge` has the others.

Each step takes the lock, decides whether there is work to do (`RunFolder.begin`), does it through the public API, and
records settings, inputs and speed. Each returns the text that the command line shows.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nanomd.base.config import check_range
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import sha256_of, write_atomic
from nanomd.base.progress import progress_bar
from nanomd.base.units import FrameInterval
from nanomd.study.folder import RunFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanomd.base.progress import Progress
    from nanomd.estimator import GPTModel

PathLike = str | Path


# --- simulate --------------------------------------------------------------------------------------------------------
def simulate(
    run: PathLike,
    *,
    preset: Literal["demo", "paper"] = "demo",
    n_frames: int = 100_000,
    n_trajs: int = 8,
    n_threads: int | None = None,
    seed: int = 0,
    force: bool = False,
    progress: bool | None = None,
) -> str:
    """Simulate the four-state potential into simulation/xy_0000.npy ..., float64 (n_frames, 2)."""
    from nanomd.systems import four_state

    check_range("n_frames", n_frames, 2)
    check_range("n_trajs", n_trajs, 1)
    folder = RunFolder(run)
    settings = {"system": "four-state", "preset": preset, "n_frames": n_frames, "n_trajs": n_trajs, "seed": seed}
    with folder.lock():
        if not folder.begin("simulate", settings, {}, force=force):
            return nothing_to_do(folder, "simulate")
        start = time.perf_counter()
        bar = progress_bar(n_frames * n_trajs, "simulate", "frame", progress)
        try:
            xy = four_state.simulate(
                n_frames,
                n_trajs,
                seed=seed,
                preset=preset,
                n_threads=n_threads,
                progress=bar,
            )
        finally:
            bar.close()
        with _fresh_folder(folder.simulation) as part:
            for index, coordinates in enumerate(xy):
                np.save(part / f"xy_{index:04d}.npy", coordinates)
        seconds = time.perf_counter() - start
        folder.finish("simulate", settings, {}, seconds, frames_per_second=n_frames * n_trajs / seconds)
    return (
        f"simulated {n_trajs} x {n_frames:,} frames in {seconds:.1f} s ({n_frames * n_trajs / seconds:,.0f} frames/s)"
    )


# --- tokenize --------------------------------------------------------------------------------------------------------
def tokenize(
    run: PathLike,
    files: Sequence[PathLike] = (),
    *,
    top: PathLike | None = None,
    system: str | None = None,
    data: PathLike | None = None,
    features: str = "backbone_torsions",
    reduction: str | None = None,
    lagtime: int | None = None,
    n_components: int | None = None,
    n_states: int | None = None,
    stride: int = 1,
    join_folders: bool = False,
    scheme: str = "x-bins",
    frame_interval: str | FrameInterval | None = None,
    seed: int = 0,
    force: bool = False,
    progress: bool | None = None,
) -> str:
    """Write discrete trajectories to tokens/, from MD files, ready-made dtrajs, a known system, or simulation/.

    With `join_folders` the files of one folder, in natural order, are consecutive parts of one trajectory.
    """
    from nanomd.base.file_lists import expand_paths
    from nanomd.data.dtrajs import save_dtrajs

    check_range("stride", stride, 1)
    if join_folders and top is None:
        raise InputError("join_folders is for trajectory files with a topology: give --top")
    folder = RunFolder(run)
    common = {"seed": seed, "stride": stride, "frame_interval": _interval_text(frame_interval)}
    sources: list[Path] = []
    if system is not None:
        if files or top:
            raise InputError("--system reads its own files from --data: leave out the files and --top")
        source: dict[str, Any] = {"system": system, "n_states": n_states}
        sources = _system_files(system, data)
    elif top is not None:
        if not files:
            raise InputError("--top needs trajectory files: `nanomd tokenize --top protein.pdb traj_*.xtc`")
        source = {
            "features": features, "reduction": reduction, "lagtime": lagtime, "n_components": n_components,
            "n_states": 100 if n_states is None else n_states, "top": str(top),
            **({"join_folders": True} if join_folders else {}),
        }  # fmt: skip
        sources = [Path(top), *expand_paths([Path(f) for f in files])]
    elif files:
        source = {"dtrajs": True}
        sources = expand_paths([Path(f) for f in files])
    else:
        simulated = folder.record("simulate")
        if not simulated:
            raise InputError(
                "nothing to tokenize: give trajectory files with --top, discrete trajectories, or --system, "
                f"or run `nanomd simulate --run {run}` first"
            )
        of = str(simulated.get("settings", {}).get("system", "four-state"))
        if of == "four-state":
            source = {"system": of, "scheme": scheme, "n_states": n_states}
            sources = sorted(folder.simulation.glob("xy_*.npy"))
        else:
            source = {"system": of, "n_states": n_states}
            sources = _system_files(of, folder.simulation)
    settings = {**source, **common}
    with folder.lock():
        inputs = _hashes(sources)
        if not folder.begin("tokenize", settings, inputs, force=force):
            return nothing_to_do(folder, "tokenize")
        start = time.perf_counter()
        with _fresh_folder(folder.tokens) as part:
            dtrajs, interval = _make_dtrajs(part, sources, settings, frame_interval, progress)
            save_dtrajs(dtrajs, part)
            states = np.unique(np.concatenate(dtrajs))
            states = states[states >= 0]
            if len(states) < 2:
                raise InputError(
                    f"the trajectories visit {len(states)} state; kinetics need at least 2: use more states"
                )
            manifest = {
                "format": "nanomd-dtrajs",
                "format_version": 1,
                "frame_interval": {"value": interval.value, "unit": interval.unit},
                "n_states": len(states),
                "trajectories": [{"name": f"md_{i:04d}.npy", "n_frames": len(d)} for i, d in enumerate(dtrajs)],
            }
            write_atomic(part / "manifest.json", json.dumps(manifest, indent=1) + "\n")
        n_frames = sum(map(len, dtrajs))
        seconds = time.perf_counter() - start
        folder.finish("tokenize", settings, inputs, seconds, n_states=len(states), n_frames=n_frames)
    each = "" if interval.unit == "frame" else f" of {interval}"
    return f"{len(dtrajs)} trajectories, {n_frames:,} frames{each}, {len(states)} states"


def _hashes(sources: Sequence[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by name; by path where files of several folders have one name."""
    count = Counter(path.name for path in sources)
    return {path.name if count[path.name] == 1 else str(path): sha256_of(path) for path in sources}


def _system_files(system: str, data: PathLike | None) -> list[Path]:
    """Return the files of a known system, the topology first where there is one."""
    if system == "alanine-dipeptide":
        from nanomd.systems import alanine_dipeptide

        return alanine_dipeptide.paths(data)
    from nanomd.systems import ww_domain

    found = ww_domain.files(data)
    return [Path(found.topology), *map(Path, found.trajectories)]


def _make_dtrajs(
    part: Path,
    sources: list[Path],
    settings: dict[str, Any],
    frame_interval: str | FrameInterval | None,
    progress: bool | None,
) -> tuple[list[NDArray[np.int64]], FrameInterval]:
    """Return discrete trajectories and the time between their frames; a tokenizer is saved beside them."""
    from nanomd.data.dtrajs import load_dtrajs

    interval = FrameInterval.parse(frame_interval)
    stride, seed, n_states = settings["stride"], settings["seed"], settings.get("n_states")
    chosen = {} if n_states is None else {"n_states": n_states}
    if settings.get("dtrajs"):
        dtrajs = [d[::stride] for d in load_dtrajs([str(p) for p in sources])]
    elif settings.get("system") == "four-state":
        from nanomd.systems import four_state

        xy = np.stack([_load_array(path) for path in sources])[:, ::stride]
        dtrajs = four_state.tokenize(xy, scheme=settings["scheme"], **chosen)
    elif settings.get("system") == "alanine-dipeptide":
        from nanomd.systems import alanine_dipeptide

        torsions = [t[::stride] for t in alanine_dipeptide.load(sources[0].parent)]
        dtrajs, _ = alanine_dipeptide.tokenize(torsions, seed=seed, **chosen)
        if frame_interval is None:
            interval = alanine_dipeptide.frame_interval(sources[0].parent)
    else:
        if settings.get("system") == "ww-domain":
            from nanomd.systems import ww_domain

            tokenizer, dtrajs = ww_domain.tokenize(
                **chosen, stride=stride, seed=seed, data_dir=sources[0].parent, progress=progress
            )
        else:
            from nanomd.base.file_lists import by_folder
            from nanomd.tokenize import Tokenizer

            options = {k: settings[k] for k in ("lagtime", "n_components", "n_states") if settings[k] is not None}
            tokenizer = Tokenizer(
                settings["features"],
                reduction=settings["reduction"],
                seed=seed,
                frame_interval=frame_interval,
                progress=progress,
                **options,
            )
            files = by_folder(sources[1:]) if settings.get("join_folders") else sources[1:]
            dtrajs = tokenizer.fit_transform(sources[0], files, stride)
        tokenizer.save(part / "tokenizer")
        return dtrajs, tokenizer.frame_interval
    if stride > 1:
        interval = FrameInterval(interval.value * stride, interval.unit)
    return dtrajs, interval


# --- train -----------------------------------------------------------------------------------------------------------
def load_tokens(folder: RunFolder) -> tuple[list[NDArray[np.int64]], FrameInterval]:
    """Return the discrete trajectories of a run folder and the time between their frames."""
    from nanomd.data.dtrajs import load_dtrajs

    folder.require("tokenize", folder.tokens / "manifest.json", f"nanomd tokenize --run {folder.path} ...")
    file = folder.tokens / "manifest.json"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        names = [str(row["name"]) for row in manifest["trajectories"]]
        lengths = [int(row["n_frames"]) for row in manifest["trajectories"]]
        interval = FrameInterval(float(manifest["frame_interval"]["value"]), str(manifest["frame_interval"]["unit"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{file} is damaged ({error}); repeat `nanomd tokenize` with --force") from None
    dtrajs = load_dtrajs([str(folder.tokens / Path(name).name) for name in names])
    if [len(d) for d in dtrajs] != lengths:
        raise StoreError(
            f"{folder.tokens} does not hold the frames that its manifest names; repeat `nanomd tokenize` with --force"
        )
    return dtrajs, interval


def split_held_out(
    dtrajs: list[NDArray[np.int64]], hold_out: int
) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
    """Return the training trajectories and the last `hold_out` ones."""
    check_range(
        "hold_out", hold_out, 0, len(dtrajs) - 1, f"there are {len(dtrajs)} trajectories, and training needs one"
    )
    return dtrajs[: len(dtrajs) - hold_out], dtrajs[len(dtrajs) - hold_out :]


def train(
    run: PathLike,
    *,
    preset: str = "small",
    hold_out: int = 0,
    overrides: dict[str, Any] | None = None,
    seed: int = 0,
    force: bool = False,
    resume: bool = False,
    progress: bool | None = None,
) -> str:
    """Train a nano-GPT on tokens/ into model/, with checkpoints/ and logs/metrics.jsonl on the way.

    Under ``torchrun`` every process trains on its slice of the batches, and the first one alone writes.
    """
    from nanomd.training.distributed import join

    world = join(str((overrides or {}).get("device", "auto")))
    folder = RunFolder(run, create=False)
    dtrajs, interval = load_tokens(folder)
    training, _ = split_held_out(dtrajs, hold_out)
    settings = {"preset": preset, "hold_out": hold_out, **(overrides or {}), "seed": seed}

    def fit(bar: Progress | None) -> GPTModel:
        from nanomd.estimator import GPTEstimator

        estimator = GPTEstimator(
            preset,
            **(overrides or {}),
            seed=seed,
            frame_interval=interval,
            run_dir=folder.path,
            resume=resume,
            progress=bar,
        )
        return estimator.fit(training).fetch_model()

    if not world.first:
        if world.agree(0.0):
            fit(None)
        return ""
    with folder.lock():
        inputs = {"tokens": sha256_of(folder.tokens)}
        begun = False
        try:
            begun = folder.begin("train", settings, inputs, force=force, resume=resume)
        finally:
            world.agree(float(begun))  # the other processes end where there is nothing to do
        if not begun:
            return nothing_to_do(folder, "train")
        from nanomd.base.config import TrainConfig

        n_steps = int((overrides or {}).get("n_steps", TrainConfig().n_steps))
        start = time.perf_counter()
        bar = progress_bar(n_steps, "train", "step", progress)
        try:
            model = fit(bar)
        finally:
            bar.close()
        model.save(folder.model)
        seconds = time.perf_counter() - start
        last = model.history[-1] if model.history else {}
        more = {"n_processes": world.size} if world.size > 1 else {}
        folder.finish("train", settings, inputs, seconds, n_steps=n_steps, last_metrics=last, **more)
    return f"trained {n_steps} steps in {seconds:.1f} s; model in {folder.model}"


# --- helpers ---------------------------------------------------------------------------------------------------------
@contextmanager
def _fresh_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `path` when it is complete."""
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        if path.exists():
            shutil.rmtree(path)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _load_array(path: Path) -> NDArray[np.float64]:
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.float64)
    except ValueError as error:
        raise InputError(f"{path} is not a readable .npy file: {error}") from None


def _interval_text(value: str | FrameInterval | None) -> str | None:
    return None if value is None else str(FrameInterval.parse(value))


def nothing_to_do(folder: RunFolder, stage: str) -> str:
    """Return what is said where the result is there already."""
    return f"{stage}: {folder.path} already holds this result; nothing to do"
