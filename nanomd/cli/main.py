"""The command `nanomd`: builds the parser, runs one subcommand, and turns errors into one line.

Exit codes: 0 done, 2 bad input or a file that cannot be used, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NoReturn, TextIO

from nanomd import __version__
from nanomd.base.errors import NanomdError, NanomdWarning
from nanomd.cli import (
    at,
    bench,
    condition,
    constrain,
    demo,
    doctor,
    experiment,
    generate,
    interpret,
    rare,
    report,
    simulate,
    structures,
    tokenize,
    train,
    validate,
)
from nanomd.cli.settings import apply_config

_COMMANDS = (
    simulate,
    tokenize,
    train,
    condition,
    at,
    generate,
    rare,
    interpret,
    validate,
    report,
    structures,
    constrain,
    bench,
    doctor,
    demo,
    experiment,
)
_EPILOG = """\
a study, step by step, in one run folder:
  nanomd tokenize --run my_run --top protein.pdb --states 100 --frame-interval "0.2 ns" traj_*.xtc
  nanomd train    --run my_run
  nanomd generate --run my_run --n-steps 1000000 --n-trajs 16
  nanomd interpret --run my_run
  nanomd validate --run my_run
  nanomd report   --run my_run
or all of it on a model system, in a minute:
  nanomd demo
"""


class _Parser(argparse.ArgumentParser):
    """argparse, with errors of one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"nanomd: error: {message} (see `{self.prog} --help`)\n")


def build_parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """Return the parser and the parsers of the subcommands by name."""
    parser = _Parser(
        prog="nanomd",
        description="Learn the kinetics of molecular dynamics with a small GPT; generate million-step trajectories.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"nanomd {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    by_name = {}
    for module in _COMMANDS:
        name = module.__name__.rpartition(".")[2]
        summary = (module.__doc__ or name).strip()  # python -OO strips docstrings
        child = commands.add_parser(
            name,
            help=summary.splitlines()[0].rstrip("."),
            description=summary,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.configure(child)
        child.set_defaults(run_command=module.run)
        by_name[name] = child
    return parser, by_name


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code.
    """
    parser, commands = build_parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = argparse.Namespace(command="")
    try:
        apply_config(arguments, commands)
        options = parser.parse_args(arguments)
        with _warnings_of_one_line():
            result: int = options.run_command(options)
        sys.stdout.flush()
        return result
    except KeyboardInterrupt:
        return _interrupted(options)
    except BrokenPipeError:
        # The reader of our output has gone, as in `nanomd doctor | head -1`. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except NanomdError as error:
        return _fail(str(error))
    except ModuleNotFoundError as error:
        from nanomd.base.extras import explained

        known = explained(error)
        if known is None:
            raise
        return _fail(str(known))
    except OSError as error:
        from nanomd.base.files import explain_os_error

        return _fail(explain_os_error(error))
    except MemoryError:
        return _fail("not enough memory: use fewer trajectories, a larger --stride, or a smaller model")


@contextmanager
def _warnings_of_one_line() -> Iterator[None]:
    """Print what nanomd warns of as one line, without the place in the code."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", NanomdWarning)
        others = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if issubclass(category, NanomdWarning):
                print(f"nanomd: warning: {' '.join(str(message).split())}", file=sys.stderr)
            else:
                others(message, category, filename, lineno, file, line)

        warnings.showwarning = show
        yield


def _fail(message: str) -> int:
    print(f"nanomd: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _interrupted(options: argparse.Namespace) -> int:
    if not options.command:
        print("\nnanomd: interrupted", file=sys.stderr)
        return 130
    command, run, shard = options.command, str(getattr(options, "run", "")), getattr(options, "shard", None)
    molecule = command == "simulate" and options.system != "four-state"
    resume = " --resume" if command in {"train", "condition", "generate"} or molecule else ""
    where = f" --out {options.out}" if molecule and options.out else f" --run {run}" if run else ""
    again = f"nanomd {command}{f' {options.system}' if molecule else ''}{where}{f' --shard {shard}' if shard else ''}"
    kept = "what is complete is kept" if resume else "finished steps are kept"
    print(f"\nnanomd: interrupted; {kept}. Go on with `{again}{resume}` and the same options.", file=sys.stderr)
    return 130


if __name__ == "__main__":
    sys.exit(main())
