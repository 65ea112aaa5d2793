"""Roll a model of random weights out with an installed nanomd: what every wheel and package has to do to be released.

Needs the base dependencies alone: python recipe/try_wheel.py
"""

import tempfile

import numpy as np

import nanomd
from nanomd.data.states import StateMap
from nanomd.model.files import ModelFiles, Starts, save_model

rng = np.random.default_rng(0)
config = nanomd.ModelConfig(n_states=5, d_model=16, n_layer=1, n_head=2, context_length=8)
tensors = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in config.tensor_shapes().items()}
starts = Starts(np.full(5, 0.2), np.zeros((1, 8), np.int32))
files = ModelFiles(config, tensors, StateMap(np.arange(5)), starts, nanomd.FrameInterval(1, "ns"), {})
with tempfile.TemporaryDirectory() as folder:
    path = save_model(f"{folder}/model", files)
    sampler = nanomd.Sampler.load(path)
    once, again = (sampler.generate(2000, 8, seed=1, n_threads=n) for n in (1, 2))
assert once == again, "a trajectory depends on the number of threads"
assert once.transition_counts(1).sum() == 8 * 1999
print(f"nanomd {nanomd.__version__} rolls out: {once}")
