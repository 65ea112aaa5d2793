"""`rare`: the rate of a rare event of the trained model into rare/, with a picture, and the numbers as text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nanomd.base.arrays import map_npy
from nanomd.base.errors import InputError
from nanomd.base.extras import MissingExtraError
from nanomd.base.files import sha256_of
from nanomd.study.folder import RunFolder
from nanomd.study.step import begin_step

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanomd.rare.result import RareEvents

RESULT = "result.npz"


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

            return f"{step.nothing_to_do()}\n{RareEvents.load(folder.rare / RESULT).summary}"
        result = Sampler.load(folder.model, "cpu").rare_event(
            sets["source"], sets["target"], progress=values, method=method, n_repeats=n_repeats,
            confidence=confidence, seed=seed, n_threads=n_threads, out=folder.work / "rare", resume=resume,
            show_progress=show_progress, **options,
        )  # fmt: skip
        _draw(result, folder.work / "rare" / "rare.png")
        step.record["steps"] = result.steps
    return result.summary + step.notes


def _draw(result: RareEvents, file: Path) -> None:
    try:
        from matplotlib.figure import Figure

        from nanomd.report.plots_rare import draw_rare_event
        from nanomd.report.style import look

        with look():
            # Ticks of small rates are wide: the margins have to follow them.
            figure = Figure(figsize=(5.6, 3.8), layout="constrained")
            axes = figure.subplots()
            draw_rare_event(axes, result)
            axes.legend(fontsize="small")
            figure.savefig(file, dpi=150)
    except (ImportError, MissingExtraError):
        return  # the numbers need no picture
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error}") from None
