"""Train a nano-GPT on the states of the run folder.

Checkpoints are written on the way; after an interruption, --resume goes on bit for bit.
On several GPUs: torchrun --standalone --nproc-per-node 4 -m -- nanomd train --run my_run ...
"""

from __future__ import annotations

import argparse

from nanomd.base.config import ModelConfig, TrainConfig
from nanomd.cli.common import add_common, add_fields, add_resume, add_training, arguments, given, progress, say


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_common(parser)
    add_resume(parser)
    add_training(parser, "what the training never sees, so that it can judge")
    names = add_fields(parser, "the model (where it differs from the preset)", ModelConfig, ["n_states", "group_sizes"])
    names += add_fields(parser, "the training", TrainConfig, skip=["seed", "keep_epochs"])
    parser.set_defaults(override_names=names)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from nanomd.study.train import train

    names = options.override_names
    text = train(
        **arguments(options, "override_names", *names), overrides=given(options, names), progress=progress(options)
    )
    if text:  # of several processes, the first one speaks
        say(options, text)
    return 0
