"""Simulate a model potential, or a small molecule with OpenMM.

nanomd simulate --run my_run                                     the four-state potential, into my_run/simulation
nanomd simulate alanine-dipeptide --ns 20 --out DIR              PDB and XTC files, for anything
nanomd simulate alanine-dipeptide --ns 20 --run my_run           the same into my_run/simulation
nanomd simulate ww-domain --n-frames 31250 --out DIR             a small protein that folds and unfolds
then: `nanomd tokenize --run my_run`, or `nanomd tokenize --system alanine-dipeptide --data DIR`.

Molecules need OpenMM: pip install 'nanomd-kinetics[openmm]'. Trajectories run beside each other, one a core, on its
Reference platform, which is the fastest for so few atoms, or on a GPU where OpenMM finds one.
"""

from __future__ import annotations

import argparse

from nanomd.base.errors import InputError
from nanomd.cli.common import add_common, add_resume, arguments, given, progress, real, say, whole

_MOLECULE = (
    "ns", "platform", "temperature", "friction", "time_step", "frame_interval", "equilibration", "data", "out",
)  # fmt: skip


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    add_resume(parser)
    parser.add_argument(
        "system",
        nargs="?",
        choices=["four-state", "alanine-dipeptide", "ww-domain"],
        default="four-state",
        help="what is simulated (default: %(default)s)",
    )
    parser.add_argument("--n-frames", type=whole, default=None, help="frames per trajectory (four-state: 100000)")
    parser.add_argument(
        "--n-trajs", type=whole, default=None, help="independent trajectories (four-state: 8, molecules: 4)"
    )
    parser.add_argument(
        "--n-threads", type=whole, default=None, help="threads, or simulating processes (default: all cores)"
    )
    parser.add_argument(
        "--preset",
        choices=["demo", "paper"],
        default=None,
        help="four-state: demo (default), slowest process of a few hundred frames; paper: Tsai, Kuo and Tiwary 2020",
    )
    group = parser.add_argument_group("molecules")
    group.add_argument("--out", metavar="DIR", help="write here instead of into simulation/ of the run folder")
    group.add_argument("--ns", type=real, default=None, help="length of each trajectory (alanine-dipeptide: 20)")
    group.add_argument(
        "--platform",
        choices=["auto", "Reference", "CPU", "CUDA", "OpenCL"],
        default=None,
        help="of OpenMM (default: auto, CUDA where there is one, else Reference)",
    )
    group.add_argument("--temperature", type=real, default=None, help="K (300; ww-domain: 121)")
    group.add_argument("--friction", type=real, default=None, help="per ps (1; ww-domain: 0.2)")
    group.add_argument("--time-step", type=real, default=None, help="fs (2; ww-domain: 15)")
    group.add_argument(
        "--frame-interval",
        metavar="'VALUE UNIT'",
        default=None,
        help="time between frames ('1 ps'; ww-domain: '0.75 ps')",
    )
    group.add_argument(
        "--equilibration", type=real, default=None, help="ps thrown away before each trajectory (100; ww-domain: 3000)"
    )
    group.add_argument(
        "--data",
        metavar="DIR",
        help="ww-domain: a folder with ww_go.pdb and contacts.csv, in place of the packaged ones",
    )


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    if options.system == "four-state":
        return _four_state(options)
    from nanomd.study.simulate import simulate_molecule

    if options.preset is not None:
        raise InputError(f"--preset is for four-state, not for {options.system}")
    text = simulate_molecule(
        **arguments(options, "preset", "n_threads", "data"),
        n_workers=options.n_threads,
        data_dir=options.data,
        progress=progress(options),
    )
    say(options, text)
    return 0


def _four_state(options: argparse.Namespace) -> int:
    from nanomd.study.simulate import simulate_potential

    strange = [f"--{name.replace('_', '-')}" for name in given(options, _MOLECULE)]
    if options.resume:
        strange.append("--resume")
    if strange:
        raise InputError(f"{', '.join(strange)}: for molecules only; name one, such as `nanomd simulate ww-domain`")
    text = simulate_potential(
        options.run,
        preset=options.preset or "demo",
        n_frames=100_000 if options.n_frames is None else options.n_frames,
        n_trajs=8 if options.n_trajs is None else options.n_trajs,
        n_threads=options.n_threads,
        seed=options.seed,
        force=options.force,
        progress=progress(options),
    )
    say(options, text)
    return 0
