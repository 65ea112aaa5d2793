"""Libraries that only parts of nanomd need, and the extras of the distribution that bring them."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from nanomd.base.errors import NanomdError

DISTRIBUTION = "nanomd-kinetics"  # on the package index; `nanomd` is another project there

# What is imported -> the extra that brings it.
EXTRAS = {
    "torch": "train",
    "triton": "train",
    "mdtraj": "md",
    "deeptime": "md",
    "scipy": "md",
    "sklearn": "md",
    "matplotlib": "report",
    "PIL": "report",
    "jinja2": "report",
    "nvtx": "profile",
    "openmm": "openmm",
    "MDAnalysis": "mdanalysis",
    "h5py": "westpa",
    "ray": "ray",
    "dask": "dask",
    "distributed": "dask",
    "submitit": "slurm",
    "pandas": "notebook",
    "xarray": "notebook",
    "transformers": "peers",
    "ctranslate2": "peers",
    "onnxruntime": "peers",
}


class MissingExtraError(NanomdError, ImportError):
    """A library that this part of nanomd needs is not installed."""


def install(extra: str) -> str:
    """Return the command that brings an extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def missing(package: str, what: str = "this") -> MissingExtraError:
    """Return the error for a library that is not there, in one line."""
    extra = EXTRAS.get(package)
    return MissingExtraError(
        f"{what} needs {package}, which is not installed: {install(extra) if extra else f'pip install {package}'}"
    )


def needs(what: str, *packages: str) -> None:
    """Raise `MissingExtraError` where one of the packages is not installed.

    Parameters
    ----------
    what : str
        What needs them, for the message.
    *packages : str
        As they are imported.
    """
    for package in packages:
        try:
            found = find_spec(package) is not None
        except ValueError:  # imported already, or kept from being imported
            found = sys.modules.get(package) is not None
        if not found:
            raise missing(package, what)


def explained(error: ModuleNotFoundError) -> MissingExtraError | None:
    """Return the error that names the extra, where what is missing is part of one."""
    package = (error.name or "").partition(".")[0]
    return missing(package) if package in EXTRAS else None


def load(module: str) -> ModuleType:
    """Import a module for a lazy public face; a library that it lacks is a `MissingExtraError`."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise explained(error) or error from None
