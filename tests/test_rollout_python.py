"""Generation as a part of a larger program: threads, spawned processes, callbacks, cancellation, shared memory."""

import multiprocessing
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from rollout_models import make_files

from nanomd.base.errors import CancelledError, NanomdError
from nanomd.model.files import save_model
from nanomd.rollout.observables import Observables
from nanomd.rollout.result import ShardedTokens
from nanomd.rollout.sampler import Rollout, Sampler


@pytest.fixture(scope="module")
def sampler():
    return Sampler(make_files())


class Counting:
    """A user's own progress: the smallest that can be."""

    def __init__(self, fail_after=None):
        self.steps, self.calls, self.notes, self.fail_after = 0, 0, [], fail_after

    def update(self, n=1):
        self.steps += n
        self.calls += 1
        if self.fail_after is not None and self.calls > self.fail_after:
            raise ArithmeticError("the user's own")

    def note(self, text):
        self.notes.append(text)

    def close(self):
        pass


def test_progress_counts_every_step_and_shows_simulated_time(sampler, tmp_path):
    for options in ({}, {"out": tmp_path / "a"}, {"observables": Observables(), "store_tokens": False}):
        progress = Counting()
        sampler.generate(2000, 33, progress=progress, **options)
        assert progress.steps == 66_000 and progress.notes[-1] == "13.2 us"
    progress = Counting()
    sampler.generate(2000, 33, progress=progress, out=tmp_path / "a", resume=True)
    assert progress.steps == 66_000


def test_exception_in_the_callback_comes_out(sampler):
    with pytest.raises(ArithmeticError, match="the user's own"):
        sampler.generate(10**8, 2, stride=10**6, progress=Counting(fail_after=2))


def test_cancellation_from_another_thread(sampler, tmp_path):
    stop, caught = threading.Event(), []

    def work(out):
        try:
            sampler.generate(10**8, 4, stride=10**6, cancel=stop.is_set, out=out, n_threads=1)
        except CancelledError as error:
            caught.append(error)

    threads = [threading.Thread(target=work, args=(out,)) for out in (None, tmp_path / "run")]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    begun = time.perf_counter()
    stop.set()
    for thread in threads:
        thread.join(timeout=20)
    assert time.perf_counter() - begun < 5 and len(caught) == 2
    assert isinstance(caught[0], NanomdError) and "resume=True" in str(caught[0])


def test_one_sampler_serves_many_threads(sampler):
    """One engine, no interference: each call has caches and observables of its own."""
    observables = Observables([1], {"A": [5], "B": [8]})

    def work(seed):
        return sampler.generate(3000, 17, seed=seed, n_threads=1, observables=observables)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, range(6)))
    for seed, rollout in enumerate(together):
        alone = work(seed)
        assert np.array_equal(rollout.tokens, alone.tokens) and rollout.observables == alone.observables


def _in_a_process(arguments):
    model, shard = arguments
    return Sampler.load(model).generate(300, 10, seed=2, shard=shard, n_threads=1).tokens


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_works_in_spawned_processes(sampler, tmp_path, method):
    save_model(tmp_path / "model", make_files())
    whole = sampler.generate(300, 10, seed=2).tokens
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        parts = list(pool.map(_in_a_process, [(str(tmp_path / "model"), (i, 2)) for i in range(2)]))
    assert np.array_equal(np.concatenate(parts), whole)
    assert "nanomd" in sys.modules


def test_tokens_are_handed_over_without_a_copy(sampler, tmp_path):
    rollout = sampler.generate(500, 20)
    view = np.from_dlpack(rollout.tokens)
    assert np.shares_memory(view, rollout.tokens) and view.dtype == np.uint8
    torch = pytest.importorskip("torch")
    tensor = torch.from_dlpack(rollout.tokens)
    assert tensor.data_ptr() == rollout.tokens.ctypes.data and tensor.shape == (20, 500)
    rollout.tokens[3, 4] = 9
    assert view[3, 4] == 9 and int(tensor[3, 4]) == 9
    stored = sampler.generate(500, 20, out=tmp_path / "one").tokens  # a memory map: also the file's own pages
    assert isinstance(stored, np.memmap) and np.shares_memory(np.asarray(stored), stored)
    mapped = np.from_dlpack(stored)
    assert np.shares_memory(mapped, stored) and not mapped.flags.writeable


def test_shards_share_memory_one_by_one(tmp_path, sampler):
    sampler.generate(100, 6).save(tmp_path / "a", shard_trajs=4)
    tokens = Rollout.load(tmp_path / "a").tokens
    assert isinstance(tokens, ShardedTokens) and len(tokens.shards) == 2
    for shard in tokens.shards:
        assert np.shares_memory(np.from_dlpack(shard), shard)
    with pytest.raises(BufferError, match=r"tokens\.shards"):
        np.from_dlpack(tokens)


def test_former_name_of_column_limit(sampler):
    with pytest.warns(DeprecationWarning, match="now called column_limit"):
        old = Sampler(sampler.files, single_lanes=0)
    assert np.array_equal(old.generate(20, 3).tokens, Sampler(sampler.files, column_limit=0).generate(20, 3).tokens)


def test_what_a_person_sees(sampler):
    assert repr(sampler) == f"Sampler(11 states, d_model 16, 2 layers, window 6; {sampler.engine_name}, fp32)"
    rollout = sampler.generate(2000, 3, stride=7, observables=Observables([1, 5], {"A": [5], "B": [8]}))
    first, second = repr(rollout).split("\n")
    assert first == f"Rollout(3 x 2,000 steps of 200 ps, one in 7 kept; 11 states; seed 0; {sampler.engine_name})"
    stays, passages = rollout.observables.residence.events.sum(), rollout.observables.first_passage.events.sum()
    assert second == (
        f"  ObservablesResult(6,000 frames of 11 states; transitions at lag 1, 5; sets A, B: {stays:,} stays, "
        f"{passages:,} passages)"
    )
