"""Say which devices, versions and backends are in use, and why."""

from __future__ import annotations

import argparse

from nanomd.cli.common import add_common


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser, run=False, seed=False, force=False)
    parser.add_argument("--run", default=None, metavar="DIR", help="also check that this run folder is whole")
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    import json

    from nanomd import doctor

    facts = doctor.examine(options.run)
    print(json.dumps(facts, indent=1) if options.json else doctor.describe(facts))
    return 2 if any(fact["problems"] for fact in facts.get("run", {}).values()) else 0
