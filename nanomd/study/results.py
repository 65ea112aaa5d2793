"""What finished steps have left in a run folder, checked against what they were made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from nanomd.base.codec import read_json
from nanomd.base.errors import InputError, StoreError, one_line
from nanomd.base.files import sha256_of
from nanomd.base.units import FrameInterval
from nanomd.study.folder import RunFolder
from nanomd.study.held_out import HeldOut, hold_out

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nanomd.interpret.results import Interpretation
    from nanomd.kinetics.results import ValidationResult
    from nanomd.rollout.sampler import Rollout

    DTrajs = list[NDArray[np.int64]]


@dataclass
class _Trajectory:
    name: Annotated[str, Meta(pattern=r"^md_[0-9]{4,9}\.npy$")]
    n_frames: int


@dataclass
class _Interval:
    value: float
    unit: str


@dataclass
class _TokenManifest:
    """What is read of tokens/manifest.json."""

    trajectories: list[_Trajectory]
    frame_interval: _Interval


def load_tokens(folder: RunFolder) -> tuple[DTrajs, FrameInterval]:
    """Return the discrete trajectories of a run folder and the time between their frames."""
    from nanomd.data.dtrajs import load_dtrajs

    file = folder.tokens / "manifest.json"
    folder.require("tokenize", file, f"nanomd tokenize --run {folder.path} ...")
    try:
        manifest = read_json(file, _TokenManifest, StoreError)
        interval = FrameInterval(manifest.frame_interval.value, manifest.frame_interval.unit)
    except (InputError, StoreError, OSError) as error:
        raise StoreError(f"{one_line(error)}; repeat `nanomd tokenize` with --force") from None
    names = [row.name for row in manifest.trajectories]
    lengths = [row.n_frames for row in manifest.trajectories]
    dtrajs = load_dtrajs([str(folder.tokens / name.rpartition("/")[2]) for name in names])
    if [len(d) for d in dtrajs] != lengths:
        raise StoreError(
            f"{folder.tokens} does not hold the frames that its manifest names; repeat `nanomd tokenize` with --force"
        )
    return dtrajs, interval


def load_coordinates(folder: RunFolder, dtrajs: DTrajs) -> NDArray[np.float64] | None:
    """Return where the states of many-state tokens lie, (n_labels, k); None for few states, or where it is not known.

    A few states are placed by their transitions alone.
    """
    from nanomd.base.arrays import load_array
    from nanomd.training.grouping import MAX_FLAT_STATES

    file = folder.tokens / "state_coordinates.npy"
    if not file.is_file() or max(int(d.max(initial=-1)) for d in dtrajs) < MAX_FLAT_STATES:
        return None
    return load_array(file, (None, None), "<f8")


def held_out_of(folder: RunFolder, dtrajs: DTrajs) -> HeldOut:
    """Return which frames the finished training saw, and which it held out."""
    record = folder.record("train")
    if "held_out" not in record:  # older runs hold out the last so many trajectories
        number = record.get("settings", {}).get("hold_out", 0)
        if not isinstance(number, int):
            raise StoreError(f"{folder.path / 'provenance.json'} is damaged: hold_out = {number!r}")
        return hold_out([len(d) for d in dtrajs], number)
    try:
        found = HeldOut.from_dict(record["held_out"])
        fits = found.n_trajs == len(dtrajs) and all(
            last <= len(dtrajs[number]) for number, _, last in [*found.training, *found.judging]
        )
    except ValueError:
        fits = False
    if not fits:
        raise StoreError(f"{folder.path} was trained on other trajectories; repeat `nanomd train` with --force")
    return found


def load_generated(folder: RunFolder, *, verify: bool = False) -> Rollout:
    """Return the generated trajectories; those of another model are refused, and with `verify` those that changed."""
    from nanomd.rollout.result import Rollout
    from nanomd.rollout.store import TokenStore

    folder.require("generate", folder.generated / "manifest.json", f"nanomd generate --run {folder.path}")
    if folder.record("generate")["inputs"].get("model") != sha256_of(folder.model):
        raise StoreError(
            f"{folder.generated} was made by another model; run `nanomd generate --run {folder.path} --force`"
        )
    store = TokenStore.open(folder.generated)
    if verify:
        store.verify()
    return Rollout.from_store(store)


def load_validation(folder: RunFolder) -> ValidationResult:
    """Return report/validation.json."""
    from nanomd.kinetics.results import ValidationResult

    file = folder.report / "validation.json"
    folder.require("validate", file, f"nanomd validate --run {folder.path}")
    return ValidationResult.load(file)


def load_interpretation(folder: RunFolder) -> Interpretation | None:
    """Return what `nanomd interpret` found, if it was run; that of another model is refused."""
    record = folder.record("interpret")
    if not record:
        return None
    if record["inputs"].get("model") != sha256_of(folder.model):
        raise StoreError(
            f"{folder.interpret} is about another model; run `nanomd interpret --run {folder.path} --force`"
        )
    from nanomd.interpret.results import Interpretation

    return Interpretation.load(folder.interpret)
