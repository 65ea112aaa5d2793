"""Turn trajectories into sequences of microstates.

nanomd tokenize --top protein.pdb --states 100 --frame-interval "0.2 ns" traj_*.xtc   molecular dynamics
nanomd tokenize --top membrane.gro --features distances --select "name P" run.xtc     any molecule, by its atoms
nanomd tokenize --features arrays --states 100 --reduction tica --lagtime 20 features_*.npy   what you measured yourself
nanomd tokenize --states 100 run_*/COLVAR --columns phi psi      what PLUMED measured
nanomd tokenize --frame-interval "1 ps" dtrajs_*.npy      discrete trajectories made elsewhere
nanomd tokenize --system alanine-dipeptide --data DIR     a known system
nanomd tokenize --top protein.pdb --join-folders run_a/*.dcd run_b/*.dcd    two trajectories in many files each
nanomd tokenize                                           what `nanomd simulate` left in the run folder
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nanomd.cli.common import add_common, arguments, duration, progress, say, whole


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    parser.add_argument(
        "files",
        nargs="*",
        default=[],
        help="trajectory files, feature arrays (.npy, PLUMED's COLVAR), or discrete trajectories (.npy .npz .txt)",
    )
    parser.add_argument("--top", metavar="FILE", help="topology (PDB, ...) of the trajectory files")
    parser.add_argument("--system", choices=["alanine-dipeptide", "ww-domain"], help="a known system, read from --data")
    parser.add_argument("--data", metavar="DIR", help="folder with the files of --system")
    parser.add_argument(
        "--features",
        choices=["backbone_torsions", "distances", "contacts", "arrays"],
        default="backbone_torsions",
        help="what is clustered; arrays: the files hold features, (n_frames, n_features) (default: %(default)s)",
    )
    parser.add_argument(
        "--select",
        metavar="ATOMS",
        help="mdtraj selection of the atoms that features are of, such as 'name P' (default: C-alpha atoms)",
    )
    parser.add_argument(
        "--min-separation",
        type=whole,
        default=None,
        help="least distance along the sequence of the atoms that are paired, in residues (default: 3; 0: no limit)",
    )
    parser.add_argument(
        "--periodic",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure to the nearest periodic image; not for whole molecules longer than half the box (default: yes)",
    )
    parser.add_argument("--reduction", choices=["none", "tica", "vamp"], default="none", help="(default: %(default)s)")
    parser.add_argument(
        "--lagtime", type=duration, default=None, help="of the reduction: frames, or a time such as '1 ns'"
    )
    parser.add_argument(
        "--columns", nargs="+", default=None, metavar="NAME", help="variables of COLVAR files (default: all but time)"
    )
    parser.add_argument("--n-components", type=whole, default=None, help="dimensions kept by the reduction")
    parser.add_argument(
        "--states",
        dest="n_states",
        metavar="N",
        type=whole,
        default=None,
        help="number of microstates (k-means, in two levels above 2000)",
    )
    parser.add_argument("--stride", type=whole, default=1, help="use every stride-th frame (default: %(default)s)")
    parser.add_argument(
        "--join-folders",
        action="store_true",
        help="the files of one folder, in natural order, are consecutive parts of one trajectory",
    )
    parser.add_argument(
        "--scheme",
        choices=["cores", "x-bins", "kmeans"],
        default="x-bins",
        help="for a simulated potential: milestoning cores, 32 bins of x, or k-means of x and y (default: %(default)s)",
    )
    parser.add_argument(
        "--frame-interval", metavar="'VALUE UNIT'", help="time between frames of the files, such as '0.2 ns'"
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study.tokenize import tokenize

    options.reduction = None if options.reduction == "none" else options.reduction
    with _silent_readers():
        text = tokenize(**arguments(options), progress=progress(options))
    say(options, text)
    return 0


@contextmanager
def _silent_readers() -> Iterator[None]:
    """Keep the C library that reads DCD files from printing two lines for every file it opens."""
    c_library = ctypes.CDLL(None)
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        c_library.fflush(None)
        os.dup2(nowhere, 1)
        yield
    finally:
        c_library.fflush(None)  # what C still holds must not come out after all
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
