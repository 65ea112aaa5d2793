"""Rolling out a model: `Sampler` generates, `Rollout` holds what came out. Needs no PyTorch."""

from nanomd.rollout.observables import Observables, ObservablesResult
from nanomd.rollout.parts import merge_parts
from nanomd.rollout.result import Rollout, ShardedTokens
from nanomd.rollout.sampler import Sampler

__all__ = ["Observables", "ObservablesResult", "Rollout", "Sampler", "ShardedTokens", "merge_parts"]
