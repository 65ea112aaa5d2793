"""Lags and lengths as times: one parser, `FrameInterval.frames`, behind everything that takes one."""

import numpy as np
import pytest
from command_line import GENERATE, TRAIN, ok, refused, run
from hypothesis import given
from hypothesis import strategies as st
from rollout_models import make_files

from nanomd import FrameInterval, InputError, Observables, Sampler, Tokenizer, kinetics
from nanomd.baselines.memory_kernel import MemoryKernelEstimator
from nanomd.baselines.msm import MSMEstimator
from nanomd.study.folder import RunFolder


@pytest.mark.parametrize(
    ("interval", "text", "frames"),
    [
        ("0.2 ns", "1 us", 5000),
        ("0.2 ns", "1000 ps", 5),
        ("1 ps", "0.001 us", 1000),
        ("2 fs", " 1ps ", 500),
        ("0.75 ps", "3e3 fs", 4),
        ("1 ns", "7 frames", 7),
        ("1 ms", "1e6 ns", 1),
        ("1 ns", "1 \u00b5s", 1000),
        ("1 ns", "1 \u03bcs", 1000),
        (None, "12 frames", 12),
    ],
)
def test_a_time_is_a_number_of_frames(interval, text, frames):
    assert FrameInterval.parse(interval).frames(text, "lagtime") == frames


@given(st.integers(1, 10**9), st.sampled_from(["fs", "ps", "ns", "us"]), st.sampled_from([0.1, 0.2, 0.75, 1, 2, 50]))
def test_what_is_described_in_full_is_read_back(frames, unit, each):
    interval = FrameInterval(each, unit)
    assert interval.frames(f"{frames * each!r} {unit}", "n") == frames


@pytest.mark.parametrize(
    "text", ["", "5", "ns", "1 ns 2", "1..2 ns", "nan ns", "inf ns", "1e999 ns", "0.3 ns", "1.5 frames"]
)
def test_what_is_no_whole_number_of_frames_is_refused(text):
    with pytest.raises(InputError, match="lagtime"):
        FrameInterval(0.2, "ns").frames(text, "lagtime")


def test_rollouts_and_observables():
    files = make_files()  # a step is 0.2 ns
    observables = Observables(lagtimes=["1 ns", 2])
    rollout = Sampler(files).generate("40 ns", 2, observables=observables)
    assert rollout.n_steps == 200
    assert rollout.observables.observables.lagtimes == (5, 2)
    plain = Sampler(files).generate(200, 2, observables=Observables(lagtimes=[5, 2]))
    assert rollout == plain
    assert Sampler(files).generate("0.5 ns").n_steps == 3, "a trajectory is at least as long as was asked for"
    with pytest.raises(InputError, match="n_steps must be"):
        Sampler(files).generate("0 ns")
    with pytest.raises(InputError, match="the time of a frame is not known"):
        observables.count([[0, 1, 0, 1]])


def test_the_lag_of_a_reduction():
    arrays = [np.random.default_rng(0).normal(size=(400, 3)).cumsum(axis=0)]
    kinds = [Tokenizer(reduction="tica", lagtime=lag, n_states=4, frame_interval="10 ps") for lag in ("0.1 ns", 10)]
    one, other = (kind.fit_transform_arrays(arrays)[0] for kind in kinds)
    np.testing.assert_array_equal(one, other)
    assert kinds[0].lagtime == 10
    with pytest.raises(InputError, match="the time of a frame is not known"):
        Tokenizer(reduction="tica", lagtime="1 ns", n_states=4).fit_transform_arrays(arrays)


@pytest.fixture(scope="module")
def walk():
    """Two wells of two states each, 2000 frames of 0.2 ns."""
    rng = np.random.default_rng(3)
    side = np.cumsum(rng.random(2000) < 0.03) % 2
    return [2 * side + (rng.random(2000) > 0.5)]


FEW = {"n_bootstrap": 20}
WELLS = [0, 0, 1, 1]
QUANTITIES = {
    "implied_timescales": lambda d, lag, more: kinetics.implied_timescales(d, [1, lag], 2, **FEW, **more),
    "mfpt": lambda d, lag, more: kinetics.mfpt(d, [0, 1], [2, 3], stride=lag, **FEW, **more),
    "residence": lambda d, lag, more: kinetics.residence(d, WELLS, stride=lag, times=[0, lag], **FEW, **more),
    "ck_test": lambda d, lag, more: kinetics.ck_test(d, lag, WELLS, steps=(1, 2), **FEW, **more),
    "pcca": lambda d, lag, more: kinetics.pcca(d, lag, 2, **more),
    "leakage": lambda d, lag, more: kinetics.leakage(d, [d[0][:50]], lagtime=lag, **FEW, **more),
    "match_timescales": lambda d, lag, more: kinetics.match_timescales(d, {"x": d}, lag, 2, **more),
    "transition_times": lambda d, lag, more: kinetics.transition_times(
        d, WELLS, stride=lag, times=[lag], **FEW, **more
    ),
    "MSMEstimator": lambda d, lag, more: MSMEstimator(lag, **more).fit(d).fetch_model().timescales(2),
    "MSMEstimator.fit": lambda d, lag, more: MSMEstimator(**more).fit(d, lag).fetch_model().transition_matrix,
    "MemoryKernelEstimator": lambda d, lag, more: MemoryKernelEstimator(lag, 3, **more).fit(d).fetch_model().tensors,
}


@pytest.mark.parametrize("name", list(QUANTITIES))
def test_every_quantity_takes_times(name, walk):
    found = QUANTITIES[name](walk, "1 ns", {"frame_interval": "0.2 ns"})
    assert repr(found) == repr(QUANTITIES[name](walk, 5, {}))
    if name != "pcca":  # the wells are the same at any lag
        assert repr(found) != repr(QUANTITIES[name](walk, 4, {}))
    with pytest.raises(InputError, match=r"the time of a frame is not known: give frame_interval"):
        QUANTITIES[name](walk, "1 ns", {})
    with pytest.raises(InputError, match=r"must be a whole number of frames of 0.2 ns, got '1.1 ns'"):
        QUANTITIES[name](walk, "1.1 ns", {"frame_interval": "0.2 ns"})
    with pytest.raises(InputError, match="must be"):
        QUANTITIES[name](walk, 0, {})


def test_lags_are_a_list(walk):
    for lagtimes in ("1 ns", 5, [], [1, 2.5]):
        with pytest.raises(InputError, match="lagtimes must be a"):
            kinetics.implied_timescales(walk, lagtimes, frame_interval="0.2 ns")
    model = MSMEstimator("1 ns", frame_interval="0.2 ns").fit_fetch(walk)
    assert model.lagtime == 5 and model.frame_interval.describe(model.lagtime) == "1 ns"


def test_counts_of_a_rollout_by_time(walk):
    observables = Observables(lagtimes=[1, 5]).count(walk)
    by_time = observables.transition_counts("1 ns", frame_interval="0.2 ns")
    np.testing.assert_array_equal(by_time, observables.transition_counts(5))
    assert observables.to_count_model("1 ns", frame_interval="0.2 ns").lagtime == 5


def test_the_command_line(tmp_path, capsys):
    rng = np.random.default_rng(0)
    for k in range(3):
        state = (rng.random(1500) < 0.02).cumsum() % 2
        np.save(tmp_path / f"f_{k}.npy", np.stack([state, state], axis=1) + 0.1 * rng.normal(size=(1500, 2)))
    common = ["--run", tmp_path / "run"]
    ok(
        "tokenize", *common, "--features", "arrays", "--reduction", "tica", "--lagtime", "0.1 ns", "--states", 6,
        "--frame-interval", "10 ps", *sorted(tmp_path.glob("f_*.npy")),
    )  # fmt: skip
    ok("train", *common, *TRAIN)
    ok("generate", *common, *GENERATE[2:], "--n-steps", "8 ns", "--observe-lags", "20 ps", "5")
    folder = RunFolder(tmp_path / "run", create=False)
    assert folder.config("generate")["n_steps"] == 800
    ok("generate", *common, *GENERATE[2:], "--n-steps", 800, "--observe-lags", 2, 5)
    assert "nothing to do" in capsys.readouterr().out
    ok("validate", *common, "--lagtimes", "10 ps", "0.1 ns", "--lagtime", "50 ps", "--n-bootstrap", 20)
    assert "must be a whole number of frames of 10 ps, got '15 ps'" in refused(
        capsys, "validate", *common, "--lagtime", "15 ps", "--force"
    )
    with pytest.raises(SystemExit, match="2"):
        run("validate", *common, "--lagtime", "soon")
    assert "must be a whole number of frames or a time such as '1 ns', got 'soon'" in capsys.readouterr().err
