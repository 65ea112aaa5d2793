"""The paper's training: epochs, the schedule that starts again at each, weights kept on the way, initial weights."""

import math

import numpy as np
import pytest
import torch

from nanomd.base.config import ModelConfig, TrainConfig, model_preset
from nanomd.base.errors import InputError
from nanomd.estimator import GPTEstimator
from nanomd.model.network import NanoGPT
from nanomd.training.draws import hidden_probability, mix_rate
from nanomd.training.epochs import resolve_epochs, steps_per_epoch
from nanomd.training.loop import train
from nanomd.training.windows import WindowSampler

PAPER = TrainConfig.paper("ww-domain")


def chain(n_frames: int, seed: int = 0, n_states: int = 3) -> np.ndarray:
    random = np.random.default_rng(seed)
    moves = np.where(random.random(n_frames) < 0.1, random.integers(1, n_states, n_frames), 0)
    return np.cumsum(moves) % n_states


def replaced(steps: int) -> tuple[float, float]:
    """Mean share of replaced inputs over an epoch and its windows, and that of the last position at its end."""
    config, model = PAPER.replace(steps_per_epoch=steps), NanoGPT(model_preset("paper-ww-domain", 3))
    shares = [hidden_probability(mix_rate(step, config), 100, model, config) for step in range(steps)]
    return float(torch.stack(shares).mean()), float(shares[-1][-1])


def test_the_share_replaced_is_that_of_the_published_schedule():
    assert replaced(250) == pytest.approx((0.016, 0.06), abs=0.002)
    assert replaced(2500) == pytest.approx((0.13, 0.45), abs=0.005)


def test_the_schedule_starts_again_at_every_epoch_or_goes_on():
    assert mix_rate(0, PAPER) == mix_rate(250, PAPER) == mix_rate(5000, PAPER) == pytest.approx(1 - 0.99995)
    assert mix_rate(249, PAPER) == pytest.approx(1 - 0.99995**250)
    training = PAPER.replace(hidden_schedule="training")
    assert mix_rate(5000, training) == pytest.approx(1 - 0.99995**5000) and mix_rate(0, training) == 0


@pytest.mark.parametrize(("shift", "burn_in"), [(50, 0), (100, 0), (7, 0), (13, 20)])
def test_an_epoch_reads_every_window_once(shift, burn_in):
    data = [chain(n, n) for n in (40, 101, 777, 1000)]
    config = PAPER.replace(window_shift=shift, burn_in=burn_in, batch_size=4)
    sampler = WindowSampler(data, length=100, batch_size=4, context=burn_in, shift=shift)
    assert sampler._grid is not None
    assert steps_per_epoch(model_preset("paper-ww-domain", 3), config, data) == math.ceil(len(sampler._grid) / 4)


def test_without_a_grid_an_epoch_reads_as_many_frames_as_there_are():
    config = TrainConfig(batch_size=8, train_length=64, burn_in=0)
    model = model_preset("tiny", 3)
    assert steps_per_epoch(model, config, [chain(64 * 8 * 5 + 1)]) == 5


def test_epochs_become_steps_once():
    data, model = [chain(1001)], model_preset("paper-ww-domain", 3)
    config = resolve_epochs(model, TrainConfig.paper("four-state", batch_size=2), data)
    assert (config.steps_per_epoch, config.n_steps) == (5, 155)
    assert resolve_epochs(model, config, data) == config
    plain = TrainConfig()
    assert resolve_epochs(model, plain, data) is plain


@pytest.mark.parametrize("epochs", [(3, 2), (0, 1), (2, 2)])
def test_epochs_to_keep_must_rise(epochs):
    with pytest.raises(InputError, match="keep_epochs"):
        TrainConfig(keep_epochs=epochs)


def test_epochs_after_the_end_cannot_be_kept():
    with pytest.raises(InputError, match="keep_epochs must be at most 2"):
        resolve_epochs(model_preset("tiny", 3), TrainConfig(n_epochs=2, keep_epochs=(3,)), [chain(500)])


SMALL = ModelConfig(n_states=3, d_model=16, n_head=2, n_layer=1, context_length=16, position="learned", norm="post")
SHORT = TrainConfig.paper("four-state", batch_size=4, window_shift=16, n_epochs=3, keep_epochs=(1, 2), device="cpu")


def test_kept_weights_are_those_of_a_training_that_ended_there(tmp_path):
    """The rate is constant and nothing is averaged, so a shorter training is the beginning of a longer one."""
    data = [chain(400)]
    whole = train(SMALL, SHORT, data)
    assert set(whole.kept) == {1, 2}
    for epoch in (1, 2):
        shorter = train(SMALL, SHORT.replace(n_epochs=epoch, keep_epochs=()), data)
        for name, value in shorter.last.items():
            assert torch.equal(value, whole.kept[epoch][name])
    assert not torch.equal(whole.kept[1]["head.weight"], whole.kept[2]["head.weight"])


class StoppedError(Exception):
    pass


class Stop:
    """A progress that ends a training after some steps, as an interruption would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def update(self, n: int) -> None:
        self.left -= n
        if self.left <= 0:
            raise StoppedError

    def note(self, text: str) -> None:
        pass


def test_a_resumed_training_has_the_weights_kept_before(tmp_path):
    data, config = [chain(400)], SHORT.replace(checkpoint_interval=1)
    steps = steps_per_epoch(SMALL, config, data)
    with pytest.raises(StoppedError):
        train(SMALL, config, data, run_dir=tmp_path, progress=Stop(steps + 2))
    resumed, whole = train(SMALL, config, data, run_dir=tmp_path, resume=True), train(SMALL, config, data)
    for epoch in (1, 2):
        for name, value in whole.kept[epoch].items():
            assert torch.equal(value, resumed.kept[epoch][name])


def test_validation_has_the_mixture_beside_one_pass():
    data, held_out = [chain(600)], [chain(300, 5)]
    config = SHORT.replace(hidden_step_base=0.5, hidden_position_base=0.3)  # replaces nearly all
    record = train(SMALL, config, data, held_out).history[-1]
    assert abs(record["mixed_validation_loss"] - record["validation_loss"]) > 1e-4
    record = train(SMALL, config.replace(hidden_position_base=1.0), data, held_out).history[-1]
    assert record["mixed_validation_loss"] == pytest.approx(record["validation_loss"], abs=1e-6)
    assert "mixed_validation_loss" not in train(SMALL, SHORT.replace(objective="one_pass"), data, held_out).history[-1]


def test_initial_weights_are_glorot_uniform():
    model = NanoGPT(model_preset("paper-ww-domain", 98))
    model.initialise_glorot(3)
    bounds = {
        "embedding.weight": 98 + 128, "position.weight": 100 + 128, "head.weight": 128 + 98,
        "blocks.1.attention.qkv.weight": 128 * 8 + 128 * 16, "blocks.1.attention.proj.weight": 128 + 128 * 8,
        "blocks.0.mlp.up.weight": 256, "blocks.0.mlp.down.weight": 256,
    }  # fmt: skip
    weights = model.state_dict()
    for name, fans in bounds.items():
        limit, largest = math.sqrt(6 / fans), float(weights[name].abs().max())
        assert 0.99 * limit < largest <= limit
        assert float(weights[name].std()) == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert float(weights["blocks.0.norm1.weight"].min()) == 1 and not weights["head.bias"].any()


def test_the_papers_settings_are_those_of_its_code():
    four, peptide = TrainConfig.paper("four-state"), TrainConfig.paper("alanine-dipeptide", seed=4)
    assert (four.learning_rate, four.batch_size, four.window_shift, four.keep_epochs) == (1e-4, 128, 100, (11, 21, 31))
    assert (peptide.n_epochs, peptide.steps_per_epoch, peptide.frame_stride, peptide.seed) == (81, 2500, 2, 4)
    for config in (four, peptide, PAPER):
        assert config.lr_schedule == "constant" and config.average == "none" and config.refit == "off"
        assert (config.beta1, config.beta2, config.weight_decay, config.warmup_steps) == (0.9, 0.98, 0.0, 0)
        assert config.objective == "two_pass_hidden" and config.hidden_schedule == "epoch"
    with pytest.raises(InputError, match="system must be one of four-state"):
        TrainConfig.paper("villin")


def test_the_estimator_gives_the_models_of_kept_epochs():
    estimator = GPTEstimator("tiny", n_epochs=2, keep_epochs=(1,), batch_size=8, refit="off", seed=1, device="cpu")
    first, last = [*estimator.fit(chain(3000)).fetch_epochs(), estimator.fetch_model("last")]
    assert last.provenance["train"]["n_steps"] == 2 * last.provenance["train"]["steps_per_epoch"]
    assert first.provenance["epoch"] == 1
    assert first.log_likelihood(chain(500, 3)) < last.log_likelihood(chain(500, 3))
