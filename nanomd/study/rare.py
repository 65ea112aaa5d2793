"""`rare`: the rate of a rare event of the trained model into rare/, with a picture, and the numbers as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanomd.base.arrays import map_npy
from nanomd.base.checks import check_whole
from nanomd.base.errors import InputError
from nanomd.base.extras import MissingExtraError, needs
from nanomd.base.files import sha256_of
from nanomd.data.dtrajs import save_dtrajs
from nanomd.study.folder import RunFolder
from nanomd.study.step import begin_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanomd.rare.result import RareEvents

RESULT = "result.npz"
PATHS = "paths"


def rare(
    run: str | Path,
    *,
    source: str,
    target: str,
    progress: str | Path | None = None,
    method: str = "weighted_ensemble",
    n_repeats: int = 8,
    confidence: float = 0.95,
    seed: int = 0,
    n_threads: int | None = None,
    force: bool = False,
    resume: bool = False,
    show_progress: bool | None = None,
    west: str | Path | None = None,
    paths: int | None = None,
    **options: Any,
) -> str:
    """Sample a rare event of the model of a run folder, and return the rate as text.

    Parameters
    ----------
    run : path
    source, target : str
        Raw labels, such as ``"0,1,7-9"``.
    progress : path, optional
        Of a .npy file with a value for every state of the model.
    method, n_repeats, confidence, seed, n_threads :
        As for `nanomd.Sampler.rare_event`.
    force, resume : bool
        Replace another result; go on with an interrupted one.
    show_progress : bool, optional
        Whether to show a bar; on a terminal only when None.
    west : path, optional
        Of a file to write in the layout of WESTPA's west.h5; it must not be there, except with `force`.
    paths : int, optional
        Write so many passages of equal weight to rare/paths/, and all with their weights to rare/paths.npz.
    **options :
        Of the method; those that are None are left out.
    """
    from nanomd.rollout.observables import parse_set
    from nanomd.rollout.sampler import Sampler

    folder = RunFolder(run, create=False)
    folder.require("train", folder.model, f"nanomd train --run {folder.path}")
    sets = {name: parse_set(f"{name}={text}")[1] for name, text in (("source", source), ("target", target))}
    values: NDArray[np.float64] | None = None
    if progress is not None:
        values = np.array(map_npy(progress))
    options = {name: value for name, value in options.items() if value is not None}
    if west is not None:
        _check_west(Path(west), method, force)
    if paths is not None:
        check_whole("paths", paths, 1, 1 << 20)
    if west is not None or paths is not None:
        options["record"] = True
    settings = {
        "source": source, "target": target, "method": method, "n_repeats": n_repeats, "confidence": confidence,
        "seed": seed, **options,
    }  # fmt: skip

    def inputs() -> dict[str, str]:
        given = {} if progress is None else {"progress": sha256_of(progress)}
        return {"model": sha256_of(folder.model), **given}

    with begin_step(folder, "rare", settings, inputs, force=force, resume=resume) as step:
        if step.done:
            from nanomd.rare.result import RareEvents

            result = RareEvents.load(folder.rare / RESULT)
            return f"{step.nothing_to_do()}\n{result.summary}{_write(result, folder.rare, west, paths)}"
        result = Sampler.load(folder.model, "cpu").rare_event(
            sets["source"], sets["target"], progress=values, method=method, n_repeats=n_repeats,
            confidence=confidence, seed=seed, n_threads=n_threads, out=folder.work / "rare", resume=resume,
            show_progress=show_progress, **options,
        )  # fmt: skip
        _draw(result, folder.work / "rare" / "rare.png")
        written = _write(result, folder.work / "rare", west, paths)
        step.record["steps"] = result.steps
    return result.summary + written + step.notes


def _check_west(file: Path, method: str, force: bool) -> None:
    if method != "weighted_ensemble":
        raise InputError(f"west is an option of weighted_ensemble, but the method is {method}")
    if file.is_dir():
        raise InputError(f"west must be a file, but {file} is a folder; name a file in it, such as {file / 'west.h5'}")
    if file.exists() and not force:
        raise InputError(f"{file} is there already; name another file, or use --force")
    needs("west", "h5py")


def _write(result: RareEvents, folder: Path, west: str | Path | None, paths: int | None) -> str:
    """Write what was recorded; return what is said of it."""
    said = ""
    if paths is not None:
        found = result.paths()
        said = f"\n  {found.summary}"
        if len(found):
            save_dtrajs(found.draw(paths, int(result.settings["seed"])), folder / PATHS, "path_", overwrite=True)
        found.save(folder / f"{PATHS}.npz")
    if west is not None:
        said += f"\n  {result.save_west(west)}"
    return said


def _draw(result: RareEvents, file: Path) -> None:
    try:
        from matplotlib.figure import Figure

        from nanomd.report.plots_rare import draw_paths, draw_rare_event, draw_transition_times
        from nanomd.report.style import look

        paths = result.paths() if result.settings.get("record") else None
        with look():
            # Ticks of small rates are wide: the margins have to follow them.
            if paths is None or not len(paths):
                figure = Figure(figsize=(5.6, 3.8), layout="constrained")
                panels = [figure.subplots()]
            else:
                figure = Figure(figsize=(14.4, 3.8))
                figure.set_layout_engine("constrained", w_pad=0.12)
                panels = list(figure.subplots(1, 3))
                draw_paths(panels[1], result, 40, 0)
                draw_transition_times(panels[2], paths)
            draw_rare_event(panels[0], result)
            for axes in panels:
                axes.legend(fontsize="small")
            figure.savefig(file, dpi=150)
    except (ImportError, MissingExtraError):
        return  # the numbers need no picture
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error}") from None
