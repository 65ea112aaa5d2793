"""Rollouts: the same tokens however the work is split, interrupted or resumed; friendly errors; no PyTorch."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rollout_models import LABELS, make_files, reference

from nanomd import _native
from nanomd.base.errors import BackendUnavailableError, InputError, StoreError
from nanomd.base.files import lock_folder
from nanomd.model.files import Starts, save_model
from nanomd.rollout.observables import Observables
from nanomd.rollout.sampler import Rollout, Sampler


@pytest.fixture(scope="module")
def files():
    return make_files()


@pytest.fixture(scope="module")
def learned():
    return make_files(position="learned", norm="post", activation="relu", context_length=7)


def test_tokens_follow_the_contract(files):
    """Every state is the float64 reference's inverse cumulative distribution at the uniform of (seed, step, index)."""
    rollout = Sampler(files).generate(60, 2, start=LABELS[[[1, 2, 3], [4, 4, 4]]], seed=9, first_trajectory=5)
    for row, prompt in ((0, [1, 2, 3]), (1, [4, 4, 4])):
        tokens = np.concatenate([prompt, np.asarray(rollout.tokens[row], dtype=int)])
        log_p = reference.log_probs(files.config, files.tensors, tokens, "ring")
        near = 0
        for step in range(60):
            cumulative = np.cumsum(np.exp(log_p[2 + step]))
            u = _native.rollout_uniform(9, step, 5 + row)
            near += np.abs(cumulative - u).min() < 1e-5
            if np.abs(cumulative - u).min() >= 1e-5:
                assert tokens[3 + step] == np.searchsorted(cumulative, u, side="right")
        assert near < 3
    assert np.array_equal(rollout.dtrajs[0], LABELS[rollout.tokens[0]])
    assert rollout.n_trajs == 2 and rollout.n_steps == 60 and rollout.tokens_per_second > 0


# The same tests for every backend that runs here; the reference is slow, so it draws less.
BACKENDS = pytest.mark.parametrize("backend", ["cpu", "reference"])
SIZES = {"cpu": (150, 37), "reference": (40, 7)}  # n_steps, n_trajs

CASES = [("ring", {}, None), ("hop", {"position": "learned", "context_length": 7}, 3)]
CASES += [
    ("hop", {"position": "learned", "markov_head": True}, None),
    ("crop", {"position": "learned", "n_layer": 1}, None),
]


@BACKENDS
@pytest.mark.parametrize(("mode", "changes", "keep"), CASES, ids=["ring", "hop-3", "hop", "crop"])
def test_tokens_depend_on_neither_batch_nor_threads_nor_kernel_nor_split(mode, changes, keep, backend):
    files, (n_steps, n) = make_files(**changes), SIZES[backend]
    options = {"mode": mode, "hop_keep": keep, "seed": 3}
    sampler = Sampler(files, backend)
    whole = sampler.generate(n_steps, n, n_threads=1, **options).tokens
    assert np.array_equal(whole, sampler.generate(n_steps, n, n_threads=3, **options).tokens)
    for limit in (0, 5, 16):
        if backend == "cpu":
            assert np.array_equal(whole, Sampler(files, column_limit=limit).generate(n_steps, n, **options).tokens)
    for first, last in ((0, 1), (1, n // 2), (n // 2, n)):
        part = sampler.generate(n_steps, last - first, first_trajectory=first, **options).tokens
        assert np.array_equal(whole[first:last], part)
    assert np.array_equal(whole[:, ::7], sampler.generate(n_steps, n, stride=7, **options).tokens)
    assert not np.array_equal(whole, sampler.generate(n_steps, n, **{**options, "seed": 4}).tokens)
    assert len(np.unique(whole)) > 5
    # A draw within rounding of a boundary could differ between backends, and with this seed none does.
    assert np.array_equal(whole, Sampler(files, "cpu").generate(n_steps, n, **options).tokens)


@pytest.mark.parametrize("isa", _native.available_isas())
def test_forced_instruction_set(files, isa):
    """In a fresh process, as NANOMD_ISA is read by the engine; fused ones agree token for token."""
    code = textwrap.dedent("""
        import sys; sys.path.insert(0, sys.argv[1])
        import test_rollout as t
        from nanomd.rollout.sampler import Sampler
        r = Sampler(t.make_files()).generate(300, 3, seed=1)
        print(r.backend, r.tokens.tolist())
    """)
    folder = str(Path(__file__).parent)
    environment = {**os.environ, "NANOMD_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", code, folder], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    name, tokens = done.stdout.split(" ", 1)
    assert name == f"cpu/{isa}"
    same = np.mean(np.array(json.loads(tokens)) == Sampler(files).generate(300, 3, seed=1).tokens)
    assert same == 1 if isa != "sse2" else same > 0.3


@pytest.mark.parametrize(("mode", "changes", "keep"), CASES, ids=["ring", "hop-3", "hop", "crop"])
@pytest.mark.parametrize("prompt_length", [1, 4, 20])
@BACKENDS
def test_resume_from_history_is_bit_identical(mode, changes, keep, prompt_length, backend):
    """A session opened on the history of another one continues it, wherever it is cut."""
    files = make_files(**changes)
    sampler = Sampler(files, backend)
    engine, keep = sampler.engine, keep or (files.config.context_length // 2 if mode == "hop" else 0)
    rng = np.random.default_rng(1)
    prompts = rng.integers(0, 11, (3, prompt_length)).astype(np.uint16)
    options = {"mode": mode, "hop_keep": keep, "seed": 5}
    whole = np.empty((3, 60), np.uint8)
    engine.open(prompts, np.arange(3, dtype=np.uint64), **options).advance(60, whole)
    for cut in [*range(1, 20), 41] if backend == "cpu" else [1, 7, 13, 41]:
        first = engine.open(prompts, np.arange(3, dtype=np.uint64), **options)
        head = np.empty((3, cut), np.uint8)
        first.advance(cut, head)
        assert np.array_equal(head, whole[:, :cut])
        history = first.history()
        rest = np.empty((3, 60 - cut), np.uint8)
        session = engine.open(
            history,
            np.arange(3, dtype=np.uint64),
            n_before=prompt_length + cut - history.shape[1],
            first_step=cut,
            **options,
        )
        session.advance(60 - cut, rest)
        assert np.array_equal(rest, whole[:, cut:])


@BACKENDS
def test_history_too_short_is_refused(files, backend):
    engine = Sampler(files, backend).engine
    with pytest.raises(InputError, match="must hold the last 11 tokens, got 2"):
        engine.open(np.zeros((1, 2), np.uint16), np.zeros(1, np.uint64), mode="ring", n_before=100)


def test_starts_depend_on_the_global_index(files):
    sampler = Sampler(files)
    from nanomd.model.starts import start_prompts

    for kind in ("stationary", "uniform", "data"):
        whole = start_prompts(files, kind, 200, 0, seed=4)
        part = start_prompts(files, kind, 50, 70, seed=4)
        assert np.array_equal(whole[70:120], part)
        assert whole.shape[1] == (files.config.context_length if kind == "data" else 1)
    many = start_prompts(files, "stationary", 20000, 0, seed=1)
    counts = np.bincount(many[:, 0], minlength=11)
    expected = files.starts.stationary * 20000
    assert ((counts - expected) ** 2 / expected).sum() < 35  # chi-square, 10 degrees of freedom: p < 1e-4 above
    with pytest.raises(InputError, match="unknown state 6"):
        sampler.generate(3, 1, start=[6])
    with pytest.raises(InputError, match=r"n_trajs = 2 and P >= 1, got \(1,\)"):
        sampler.generate(3, 2, start=[5])
    with pytest.raises(InputError, match="start must be"):
        sampler.generate(3, 1, start="nowhere")
    empty = dataclasses.replace(files, starts=Starts(files.starts.stationary, np.zeros((0, 6), np.int32)))
    with pytest.raises(InputError, match="the model has none"):
        Sampler(empty).generate(3, 1, start="data")


def test_store_equals_memory_and_resumes(files, tmp_path):
    sampler = Sampler(files)
    for stride in (1, 7):
        memory = sampler.generate(2000, 150, seed=2, stride=stride, n_threads=1)
        folder = tmp_path / f"stride{stride}"
        stored = sampler.generate(2000, 150, seed=2, stride=stride, n_threads=1, out=folder)
        assert len(list(folder.glob("shard_*.npy"))) == 3 and not list(folder.glob("tail_*"))
        assert stored.tokens.shape == memory.tokens.shape and stored.seconds > 0
        assert np.array_equal(np.asarray(stored.tokens), memory.tokens)
        assert np.array_equal(stored.tokens[-1], memory.tokens[-1])
        assert np.array_equal(stored.tokens[60:70], memory.tokens[60:70])
        assert np.array_equal(stored.tokens[:, 5:9], memory.tokens[:, 5:9])
        again = Rollout.load(folder)
        assert again.config == stored.config and again.frame_interval == files.frame_interval
        assert all(np.array_equal(a, b) for a, b in zip(again.dtrajs, memory.dtrajs, strict=True))
        with pytest.raises(InputError, match="holds a rollout already"):
            sampler.generate(2000, 150, out=folder)
        with pytest.raises(InputError, match="seed = 2, so it cannot be resumed with 3"):
            sampler.generate(2000, 150, seed=3, stride=stride, out=folder, resume=True)
        resumed = sampler.generate(2000, 150, seed=2, stride=stride, out=folder, resume=True)  # nothing left to do
        assert np.array_equal(np.asarray(resumed.tokens), memory.tokens)
    with pytest.raises(InputError, match="needs out="):
        sampler.generate(5, resume=True)
    memory.save(tmp_path / "saved")
    assert np.array_equal(np.asarray(Rollout.load(tmp_path / "saved").tokens), memory.tokens)


@pytest.mark.parametrize(
    ("backend", "n_steps", "n", "fuses"), [("cpu", 20_000, 70, (10_000, 1_500_000)), ("reference", 120, 5, (100, 650))]
)
def test_interrupted_anywhere_resumes_bit_identically(files, tmp_path, monkeypatch, backend, n_steps, n, fuses):
    """Progress raises at random moments, over and over, until the rollout is complete."""
    monkeypatch.setattr("nanomd.rollout.disk.COMMIT_SECONDS", 0.002)
    monkeypatch.setattr("nanomd.rollout.disk.COMMIT_TOKENS", 100 if backend == "reference" else 1 << 24)
    observables = Observables([1, 20], {"A": [5], "B": [8, 11]})
    options = {"seed": 8, "stride": 3, "n_threads": 1, "observables": observables}
    whole = Sampler(files, backend).generate(n_steps, n, **options)

    class Fuse:
        def __init__(self, n):
            self.left = n

        def update(self, n=1):
            self.left -= n
            if self.left < 0:
                raise KeyboardInterrupt

        def note(self, text): ...
        def close(self): ...

    rng = np.random.default_rng(0)
    for attempt in range(400):
        more = {"out": tmp_path / "run", "resume": attempt > 0, "progress": Fuse(rng.integers(*fuses))}
        try:
            rollout = Sampler(files, backend).generate(n_steps, n, **options, **more)
            break
        except KeyboardInterrupt:
            pass
    assert attempt >= 2
    assert np.array_equal(np.asarray(rollout.tokens), whole.tokens) and rollout.observables == whole.observables


def test_killed_process_resumes(files, tmp_path):
    """kill -9 while it writes: the manifest declares what is complete, and the rest is made again."""
    save_model(tmp_path / "model", files)
    code = textwrap.dedent("""
        import sys
        import nanomd.rollout.disk as r
        from nanomd.rollout.sampler import Sampler
        r.COMMIT_SECONDS = 0.01
        Sampler.load(sys.argv[1]).generate(60_000, 20, seed=1, n_threads=1, out=sys.argv[2], resume=True)
        print("complete")
    """)
    kills = 0
    for delay in (0.25, 0.3, 0.4, 0.5, 60.0):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "run")], stdout=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    assert kills >= 1 and process.returncode == 0
    whole = Sampler(files).generate(60_000, 20, seed=1).tokens
    assert np.array_equal(np.asarray(Rollout.load(tmp_path / "run").tokens), whole)


def test_second_writer_is_refused(files, tmp_path):
    with lock_folder(tmp_path / "run"), pytest.raises(StoreError, match="in use by process"):
        Sampler(files).generate(10, out=tmp_path / "run")


def test_control_c_stops_at_once(files):
    # A shell lets the jobs that it starts with & ignore the signal, and these tests may be one.
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
    begun = time.perf_counter()
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Sampler(files).generate(2_000_000_000, 4, stride=1_000_000)
    finally:
        signal.signal(signal.SIGINT, kept)
    assert time.perf_counter() - begun < 5


def test_gil_is_released(files):
    """Two threads generate while a third counts: nobody waits for the interpreter."""
    results = {}

    def work(seed):
        results[seed] = Sampler(files).generate(20_000, 16, seed=seed, n_threads=1).tokens

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    counted = 0
    while any(thread.is_alive() for thread in threads):
        counted += 1
        time.sleep(0.001)
    assert counted > 5
    assert np.array_equal(results[1], Sampler(files).generate(20_000, 16, seed=1).tokens)


def test_backends(files, monkeypatch, caplog):
    with pytest.raises(BackendUnavailableError, match=r"'cuda' is not available: .*available are cpu and reference"):
        Sampler(files, backend="cuda")
    with pytest.raises(InputError, match="one of auto, reference, cpu, cuda, got 'tpu'"):
        Sampler(files, backend="tpu")
    monkeypatch.setenv("NANOMD_BACKEND", "cuda")
    with pytest.raises(BackendUnavailableError):
        Sampler(files, backend="cpu")
    monkeypatch.setenv("NANOMD_BACKEND", "cpu")
    assert Sampler(files, backend="reference").backend == "cpu"
    monkeypatch.setenv("NANOMD_BACKEND", "triton")  # of training: rollouts go on as asked, and say so once
    monkeypatch.setattr("nanomd.base.backends._said", set())
    for asked, used in (("auto", "cpu"), ("reference", "reference")):
        assert Sampler(files, backend=asked).backend == used
    assert [record.getMessage() for record in caplog.records] == [
        "NANOMD_BACKEND=triton does not concern rollouts, whose backend is auto"
    ]
    monkeypatch.setenv("NANOMD_BACKEND", "tpu")
    with pytest.raises(InputError, match="NANOMD_BACKEND must be one of auto, cpu, cuda, reference, triton, got 'tpu'"):
        Sampler(files)


def test_one_state_for_all_trajectories(files):
    sampler = Sampler(files)
    assert np.array_equal(sampler.generate(9, 3, start=8).tokens, sampler.generate(9, 3, start=[8, 8, 8]).tokens)
    with pytest.raises(InputError, match="unknown state 6"):
        sampler.generate(9, 3, start=6)


def test_modes_and_arguments(files, learned):
    assert Sampler(learned).generate(20, 2).config.mode == "hop"
    with pytest.raises(InputError, match="ring needs rotary"):
        Sampler(learned).generate(20, mode="ring")
    with pytest.raises(InputError, match=r"hop_keep must be in \[1, 6\]"):
        Sampler(learned).generate(20, hop_keep=7)
    for bad in ({"n_steps": 0}, {"n_steps": 5, "n_trajs": 0}, {"n_steps": 5, "stride": 6}, {"n_steps": 5, "seed": -1}):
        with pytest.raises(InputError):
            Sampler(files).generate(**bad)
    with pytest.raises(InputError):
        Sampler(files).generate(5, sampling_temperature=0.0)
    cold = Sampler(files).generate(300, 4, start=[5] * 4, sampling_temperature=1e-3).tokens
    assert (cold == cold[0]).all()  # at temperature zero the likeliest state follows, whatever the random numbers


@BACKENDS
def test_log_probs_of_dtrajs(files, backend):
    rng = np.random.default_rng(0)
    dtrajs = [LABELS[rng.integers(0, 11, n)] for n in (1, 40)]
    for log_p, dtraj in zip(Sampler(files, backend).log_probs(dtrajs), dtrajs, strict=True):
        expected = reference.log_probs(files.config, files.tensors, (dtraj - 5) // 3, "ring")
        assert np.abs(log_p - expected)[expected > np.log(1e-7)].max() < 1e-3


def test_rollout_needs_no_torch(files, tmp_path):
    save_model(tmp_path / "model", files)
    code = textwrap.dedent("""
        import sys
        from nanomd import Sampler
        rollout = Sampler.load(sys.argv[1]).generate(50, 2, out=sys.argv[2])
        heavy = {"torch", "triton", "matplotlib", "deeptime", "sklearn", "scipy"} & set(sys.modules)
        assert not heavy, heavy
        print(rollout.tokens.shape)
    """)
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model"), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "(2, 50)", done.stderr


@pytest.mark.parametrize("changes", [{}, {"position": "learned", "markov_head": True}], ids=["ring", "hop"])
def test_draws_after_a_context_follow_the_model(changes):
    """Chi-square over all states: one step of many trajectories from one long context, against float64."""
    from scipy import stats

    files, n = make_files(seed=3, **changes), 60_000
    context = np.random.default_rng(0).integers(0, 11, 17)
    start = np.tile(LABELS[context], (n, 1))
    drawn = Sampler(files).generate(1, n, start=start, seed=6).tokens[:, 0]
    mode = "hop" if changes else "ring"
    log_p = reference.log_probs(files.config, files.tensors, context, mode, hop_keep=files.config.context_length // 2)
    expected = np.exp(log_p[-1]) * n
    assert expected.min() > 2 and np.ptp(np.log(expected)) > 2  # every state counts, and they differ
    assert stats.chisquare(np.bincount(drawn, minlength=11), expected).pvalue > 1e-4


def test_memory_does_not_grow_with_the_steps_when_stored(files, tmp_path, monkeypatch):
    import tracemalloc

    monkeypatch.setattr("nanomd.rollout.disk.COMMIT_TOKENS", 1 << 19)
    tracemalloc.start()
    try:
        rollout = Sampler(files).generate(400_000, 16, out=tmp_path / "run")  # 6.4 MB of tokens
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert rollout.tokens.shape == (16, 400_000)
    assert peak < 3.5e6
