"""Where reference trajectories lie: they are not part of the package."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanomd.base.codec import read_json
from nanomd.base.errors import InputError
from nanomd.base.paths import expand_home


def data_folder(
    name: str, needed: Sequence[str], data_dir: str | Path | None, source: str, instead: Sequence[str] = ()
) -> Path:
    """Find the folder of a system's reference trajectories.

    Parameters
    ----------
    name : str
        Folder of the system inside the data folder.
    needed : sequence of str
        Files that must be in it.
    data_dir : path, optional
        The data folder, or the system's own. By default the environment variable NANOMD_DATA, else ``../shared/data``
        beside the working folder or the repository.
    source : str
        What the files are and where such data come from, for the error message.
    instead : sequence of str
        Files that do as well.

    Raises
    ------
    InputError
        If the files are nowhere, with what they are and where they come from; or of a simulation that is not finished.
    """
    if data_dir is not None:
        roots = [expand_home(data_dir)]
    elif os.environ.get("NANOMD_DATA"):
        roots = [expand_home(os.environ["NANOMD_DATA"])]
    else:
        roots = [Path.cwd().parent / "shared" / "data", Path(__file__).parents[2].parent / "shared" / "data"]
    for root in roots:
        for folder in (root / name, root):
            for names in (needed, instead):
                if names and all((folder / file).is_file() for file in names):
                    _check_finished(folder)
                    return folder
    wanted = ", ".join(needed) + (f"; or {', '.join(instead)}" if instead else "")
    raise InputError(
        f"no {name} data ({wanted}) in {' or '.join(map(str, roots))}; give the folder, or set NANOMD_DATA. {source}"
    )


def _check_finished(folder: Path) -> None:
    """Refuse what an interrupted simulation left: some of its trajectories are missing."""
    record = folder / "simulation.json"
    if not record.is_file():
        return
    try:
        finished = bool(read_json(record, dict[str, Any])["finished"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{record} is damaged; simulate into another folder") from None
    if not finished:
        raise InputError(f"the simulation in {folder} is not finished; go on with `nanomd simulate ... --resume`")
