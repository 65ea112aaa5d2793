"""`structures`: from generated states back to frames of the molecular dynamics."""

from __future__ import annotations

from pathlib import Path

from nanomd.base.checks import check_range
from nanomd.base.errors import InputError, StoreError
from nanomd.base.files import sha256_of
from nanomd.data.dtrajs import Dtraj, load_dtrajs
from nanomd.study.folder import RunFolder
from nanomd.study.rare import PATHS
from nanomd.study.results import load_generated


def structures(
    run: str | Path,
    out: str | Path,
    *,
    trajectory: int = 0,
    first: int = 0,
    n_frames: int = 1000,
    stride: int = 1,
    top: str | Path | None = None,
    seed: int = 0,
    force: bool = False,
    progress: bool | None = None,
    passage: int | None = None,
) -> str:
    """Write frames of the MD for the states of one generated trajectory, or of a passage that `rare` has written."""
    folder = RunFolder(run, create=False)
    if not (folder.tokens / "tokenizer").exists():
        raise InputError(f"{folder.path} was not tokenized from structures: there are no frames to go back to")
    check_range("stride", stride, 1)
    check_range("n_frames", n_frames, 1)
    if passage is None:
        rollout = load_generated(folder)
        check_range("trajectory", trajectory, 0, rollout.n_trajs - 1)
        labels = rollout.dtrajs[trajectory]
    else:
        labels = _passage(folder, passage)
    check_range("first", first, 0, len(labels) - 1, f"the trajectory has {len(labels)} frames")
    chosen = labels[first : first + n_frames * stride : stride]
    path = Path(out)
    if path.exists() and not force:
        raise StoreError(f"{path} exists; use --force to replace it, or another --out")
    from nanomd.tokenize import Tokenizer

    tokenizer = Tokenizer.load(folder.tokens / "tokenizer")
    tokenizer.progress = progress
    tokenizer.to_structures(chosen, path, seed, topology=top, overwrite=force)
    return f"wrote {len(chosen)} frames to {path}"


def _passage(folder: RunFolder, number: int) -> Dtraj:
    n = len(list((folder.rare / PATHS).glob("path_*.npy")))
    if not n:
        raise InputError(f"{folder.path} holds no passages; nanomd rare --run {folder.path} --paths N writes them")
    known = folder.record("rare").get("inputs", {}).get("model")
    if known is not None and known != sha256_of(folder.model):
        raise StoreError(f"{folder.rare} was made by another model; run `nanomd rare --run {folder.path} --force`")
    check_range("passage", number, 0, n - 1)
    return load_dtrajs(folder.rare / PATHS / f"path_{number:04d}.npy")[0]
