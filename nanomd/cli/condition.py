"""Train one model of trajectories taken at several conditions: temperatures, ligands, mutants.

The TOML file --conditions says which trajectories were taken at which; nanomd at then takes the model of one condition,
for numbers also of one that was never simulated. After an interruption, --resume goes on bit for bit.
"""

from __future__ import annotations

import argparse

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.cli.common import add_common, add_fields, add_resume, add_training, arguments, given, progress, say

# What such a training does not have (`nanomd.conditional.training.check_supported`).
_ABSENT = [
    *("objective", "mix_max", "mix_anneal", "hidden_position_base", "hidden_step_base", "hidden_schedule"),
    *("lookahead_lags", "lookahead_weight", "n_epochs", "steps_per_epoch", "keep_epochs", "precision", "n_groups"),
]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    add_resume(parser)
    parser.add_argument(
        "--conditions", required=True, metavar="FILE", help="TOML file of conditions; docs/conditions.md"
    )
    add_training(parser, "what of each condition the training never sees")
    names = add_fields(parser, "the model (where it differs from the preset)", ModelConfig, ["n_states", "group_sizes"])
    names += add_fields(parser, "the training", TrainConfig, skip=["seed", *_ABSENT])
    parser.set_defaults(override_names=names)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study.condition import condition

    names = options.override_names
    chosen = given(options, names)
    say(
        options, condition(**arguments(options, "override_names", *names), overrides=chosen, progress=progress(options))
    )
    return 0
