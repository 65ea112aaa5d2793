"""Formats of trajectory files: which can be read, how, and which tell the time."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nanomd.base.errors import InputError
from nanomd.base.units import FrameInterval
from nanomd.tokenize.plain_path import plain_path, suffix_of

# Formats that mdtraj reads a few frames at a time, and those that it only loads whole.
IN_CHUNKS = {
    ".xtc", ".trr", ".dcd", ".nc", ".netcdf", ".ncdf", ".h5", ".hdf5", ".lh5", ".gro", ".mdcrd", ".crd", ".xyz",
    ".xyz.gz", ".lammpstrj", ".gsd", ".h5md",
}  # fmt: skip
_WHOLE = {
    ".pdb", ".pdb.gz", ".pdbx", ".pdbx.gz", ".cif", ".cif.gz", ".mmcif", ".mmcif.gz", ".arc", ".ncrst", ".rst7",
    ".restrt", ".inpcrd", ".mol2",
}  # fmt: skip
_MODULES = {
    ".h5": ("tables",), ".hdf5": ("tables",), ".lh5": ("tables",), ".gsd": ("gsd",), ".h5md": ("MDAnalysis", "h5py"),
}  # fmt: skip
#: Formats that mdtraj can seek in.
SEEKABLE = {".xtc", ".trr", ".dcd", ".nc", ".h5"}


def check_module(path: Path) -> None:
    """Refuse a file whose reader needs a module that is absent."""
    absent = [module for module in _MODULES.get(suffix_of(path), ()) if find_spec(module) is None]
    if absent:
        raise InputError(
            f"{path}: {suffix_of(path)} files need the module {absent[0]}; `pip install {' '.join(absent)}`, or use "
            "another format"
        )


def check_format(path: Path) -> None:
    """Refuse a trajectory file of a format that cannot be read here."""
    check_module(path)
    suffix = suffix_of(path)
    if suffix not in IN_CHUNKS | _WHOLE:
        how = f"`gmx trjconv -f {path.name} -o {path.stem}.xtc`" if suffix == ".tng" else "to XTC for example"
        raise InputError(
            f"{path} cannot be read: {f'{suffix} is' if suffix else 'a name without suffix tells'} no format that is "
            f"known here; convert it, {how}"
        )


@contextmanager
def open_file(path: Path) -> Iterator[Any]:
    """Open a trajectory file with mdtraj's reader of its format."""
    import mdtraj

    with plain_path(path) as name, ExitStack() as stack:
        with quiet():
            file = stack.enter_context(mdtraj.open(name))
        yield file


@contextmanager
def quiet() -> Iterator[None]:
    """Keep mdtraj from warning that scipy reads NetCDF files, which it does well."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*netCDF4")
        yield


@contextmanager
def open_h5md(path: Path | str) -> Iterator[Any]:
    """Open an H5MD file with MDAnalysis's reader, which gives Angstrom and ps."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries behind it
        from MDAnalysis.coordinates.H5MD import H5MDReader

        reader = H5MDReader(str(path))
    try:
        yield reader
    finally:
        reader.close()


def _h5md_times(path: Path) -> Any:
    """Return the times of an H5MD file in ps, None where it has none, or does not say their unit."""
    with suppress(Exception):  # any type is raised for a damaged file, and named on reading
        import h5py

        with h5py.File(path) as file:
            positions = next(iter(file["particles"].values()))["position"]
            time, n_frames = positions["time"], len(positions["value"])
            unit = time.attrs["unit"]
            ps = FrameInterval(1.0, unit.decode() if isinstance(unit, bytes) else str(unit)).ps
            if ps is None:
                return None
            if time.shape:
                return ps * np.array(time, dtype=np.float64)
            return ps * (float(time.attrs.get("offset", 0.0)) + float(time[()]) * np.arange(n_frames))
    return None


def _netcdf_times(path: Path) -> Any:
    """Return the times of an Amber trajectory in ps, None where it has none."""
    from scipy.io import netcdf_file

    try:
        with netcdf_file(path, mmap=False) as file:
            variable = file.variables.get("time")
            units = bytes(getattr(variable, "units", b"")).decode("ascii", "replace")
            if variable is None or not units.startswith("pico"):
                return None
            return np.array(variable[:], dtype=np.float64)
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        return None


def _hdf5_times(path: Path) -> Any:
    """Return the times of an MDTraj HDF5 file in ps, None where it has none."""
    with suppress(Exception), open_file(path) as file:  # any type is raised for a damaged file, and named on reading
        return np.array(file.root.time, dtype=np.float64)
    return None


_TIMES = {
    ".nc": _netcdf_times, ".netcdf": _netcdf_times, ".ncdf": _netcdf_times, ".h5": _hdf5_times, ".hdf5": _hdf5_times,
    ".h5md": _h5md_times,
}  # fmt: skip


def read_times(path: Path) -> Any:
    """Return the times of frames in ps, None where the format has none (or has them in the headers of frames)."""
    reader = _TIMES.get(suffix_of(path))
    return None if reader is None else reader(path)
