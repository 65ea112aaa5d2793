"""Killed again and again, with torn writes and full disks: what was declared complete stays, the rest is made again."""

import fcntl
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from rollout_models import make_files

from nanomd.base.errors import StoreError
from nanomd.model.files import save_model
from nanomd.rollout.observables import Observables
from nanomd.rollout.sampler import Rollout, Sampler
from nanomd.rollout.store import TokenStore
from nanomd.study.folder import RunFolder

N_STEPS, N_TRAJS, STRIDE = 45_000, 40, 2
OBSERVABLES = Observables([1, 50], {"A": [5], "B": [8, 11]})
FLAGS = [
    "generate", "--n-steps", str(N_STEPS), "--n-trajs", str(N_TRAJS), "--stride", str(STRIDE), "--n-threads", "1",
    "--observe-lags", "1", "50", "--set", "A=5", "B=8,11", "--seed", "6", "--resume",
]  # fmt: skip
# The command line, declaring progress as often as it can; "@" is printed whenever it has.
PROGRAM = """
import os, sys
from nanomd.rollout import disk, run
from nanomd.rollout.store import TokenStore
from nanomd.cli.main import main
disk.COMMIT_SECONDS, run.CACHE_BYTES, disk.COMMIT_TOKENS = 0.05, 1, 1 << 16
append = TokenStore.append
def told(*args, **kwargs):
    append(*args, **kwargs)
    os.write(1, b"@")
TokenStore.append = told
sys.exit(main(sys.argv[1:]))
"""
# The same, forked anew for every line on standard input, as most of the time of a short process goes to imports.
FORKING = PROGRAM.replace("0.05, 1, 1 << 16", "0.002, 1, 1 << 13").replace(
    "sys.exit(main(sys.argv[1:]))",
    """
from nanomd.study import generate as generation
from nanomd.rollout import parts
from nanomd.rollout import sampler as rollout
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os._exit(main(sys.argv[1:]))
    os.write(1, b"%d\\n" % child)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(1, b"end %d\\n" % code)
""",
)


@pytest.fixture
def run(tmp_path):
    """A run folder with a trained model, as far as `generate` can tell."""
    folder = RunFolder(tmp_path / "run")
    save_model(folder.model, make_files())
    folder.record_config("train", {})
    folder.finish("train", {}, {}, 1.0)
    return folder.path


@pytest.fixture(scope="module")
def whole():
    return Sampler(make_files()).generate(N_STEPS, N_TRAJS, stride=STRIDE, seed=6, observables=OBSERVABLES, n_threads=1)


def tear(generated, rng, whole):
    """What a crash of the machine may leave: anything at all, in whatever the manifest does not declare complete."""
    store = TokenStore.open(generated)
    for index, shard in enumerate(store.shards):
        file = generated / shard.file
        if not file.exists() or shard.steps_done == N_STEPS:
            continue
        if shard.steps_done == 0:  # laid out, or only begun to be
            size = rng.choice([0, 7, file.stat().st_size // 2, file.stat().st_size])
            file.write_bytes(os.urandom(size))
            continue
        begin = store.layout.stored_before(shard.steps_done)
        tokens = np.lib.format.open_memmap(file, mode="r+")
        tokens[:, begin:] = np.random.default_rng(rng.randrange(2**32)).integers(0, 11, tokens[:, begin:].shape)
        tokens.flush()
        assert np.array_equal(tokens[:, :begin], whole.tokens[shard.first : shard.last, :begin]), index
    (generated / ".manifest.json.abcd_012.part").mkdir(exist_ok=True)
    for name in (".manifest.json.abcd_012.part/new", "tail_0001_77.npy", "observables_0001_77.npz", "observables.npz"):
        if name != store.observables and not (generated / name).exists():
            (generated / name).write_bytes(os.urandom(rng.randrange(200)))


def declared(generated):
    """How much is complete, after checking that it is right: opened as another process would find it."""
    if not TokenStore.exists(generated):
        return 0
    store = TokenStore.open(generated)
    store.verify()
    return sum((shard.last - shard.first) * shard.steps_done for shard in store.shards)


def killed_until_done(parent, generated, rng, whole):
    """Kill at random moments until a child comes to the end undisturbed; return the number of kills."""
    complete, attempt = 0, 0
    while True:
        parent.stdin.write(b"again\n")
        child = int(parent.stdout.readline())
        declarations = rng.randrange(3)
        told = b"".join(parent.stdout.read(1) for _ in range(declarations))  # let it get somewhere
        time.sleep(rng.random() * (0.004 if declarations else 0.03))
        if b"e" not in told:
            os.kill(child, signal.SIGKILL)  # a child that has ended lies unburied until its parent is told
        told += parent.stdout.readline()
        if told.endswith(b"end 0\n"):
            return attempt
        assert told.endswith(b"end -9\n"), told
        attempt += 1
        now = declared(generated)
        assert now > complete if b"@" in told else now >= complete  # what it said is there, and nothing was lost
        complete = now
        if TokenStore.exists(generated) and attempt % 2:
            tear(generated, rng, whole)


def test_killed_dozens_of_times(run, whole):
    """SIGKILL at random moments: shortly after progress was declared, in the middle of writes, anywhere.

    On a busy machine a child may get far before it is killed: then it is all done again, until kills are dozens.
    """
    rng, kills, generated = random.Random(1), 0, run / "generated"
    command = [sys.executable, "-c", FORKING, *FLAGS, "--quiet", "--run", str(run)]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    while kills < 24:
        shutil.rmtree(generated, ignore_errors=True)
        kills += killed_until_done(parent, generated, rng, whole)
        rollout = Rollout.load(generated)
        assert np.array_equal(np.asarray(rollout.tokens), whole.tokens) and rollout.observables == whole.observables
        TokenStore.open(generated).verify()
        names = [".lock", "manifest.json", "observables.npz", *(f"shard_{i:04d}.npy" for i in range(3))]
        assert sorted(path.name for path in generated.iterdir()) == names  # no debris
        assert RunFolder(run).record("generate")
    parent.stdin.close()
    assert parent.wait(timeout=20) == 0
    parent.stdout.close()


def test_control_c_says_how_to_resume(run, whole):
    command = [sys.executable, "-c", PROGRAM, *FLAGS, "--run", str(run)]
    kept = signal.signal(signal.SIGINT, signal.default_int_handler)  # what is ignored here is ignored there
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, kept)
    assert process.stdout.read(2) == b"@@"
    begun = time.perf_counter()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert time.perf_counter() - begun < 5
    assert process.returncode == 130, errors
    text = errors.decode()
    assert f"nanomd generate --run {run} --resume" in text and "what is complete is kept" in text
    assert "Traceback" not in text and declared(run / "generated") > 0
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    assert np.array_equal(np.asarray(Rollout.load(run / "generated").tokens), whole.tokens)


def test_second_writer_is_refused_while_the_first_goes_on(run, whole):
    command = [sys.executable, "-c", PROGRAM, *FLAGS, "--run", str(run)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert first.stdout.read(1) == b"@"
    first.send_signal(signal.SIGSTOP)  # so that it is surely there
    try:
        second = subprocess.run(command, capture_output=True, timeout=60)
    finally:
        first.send_signal(signal.SIGCONT)
    first.communicate(timeout=60)
    assert second.returncode == 2 and f"in use by process {first.pid}".encode() in second.stderr
    assert first.returncode == 0
    assert np.array_equal(np.asarray(Rollout.load(run / "generated").tokens), whole.tokens)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a small file system, which only root may")
@pytest.mark.parametrize("size", ["24k", "480k", "800k"])
def test_full_disk(tmp_path, whole, size):
    """A real file system without space: an error that says so, and what is complete is there for the next attempt."""
    disk, elsewhere = tmp_path / "disk", tmp_path / "elsewhere"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    options = {"stride": STRIDE, "seed": 6, "observables": OBSERVABLES, "n_threads": 1}
    try:
        sampler = Sampler(make_files())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nanomd.rollout.run.CACHE_BYTES", 1)
            patch.setattr("nanomd.rollout.disk.COMMIT_TOKENS", 1 << 13)
            with pytest.raises(StoreError, match="the disk is full"):
                sampler.generate(N_STEPS, N_TRAJS, out=disk / "g", **options)
            if size != "24k":
                assert declared(disk / "g") > 0
            shutil.copytree(disk / "g", elsewhere, ignore=shutil.ignore_patterns(".lock"))
            rollout = sampler.generate(N_STEPS, N_TRAJS, out=elsewhere, resume=True, **options)
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert np.array_equal(np.asarray(rollout.tokens), whole.tokens) and rollout.observables == whole.observables


def test_progress_shows_speed_time_left_and_simulated_time(run):
    """On a terminal: what a person watches. On resume, earlier work is not taken for speed."""
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 140, 0, 0))
    flags = [flag if flag != str(N_STEPS) else "90000" for flag in FLAGS]
    program = PROGRAM.replace("0.05", "0.2").replace("1 << 16", "1 << 20")
    command = [sys.executable, "-c", program, *flags, "--run", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    text = bytearray()

    def read():
        while True:
            try:
                text.extend(os.read(master, 4096))
            except OSError:
                return

    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait(timeout=120) == 0
    reader.join(timeout=20)
    os.close(master)
    shown = text.decode(errors="replace")
    assert (
        re.search(r"generate: +100%", shown)
        and re.search(r"step/s", shown)
        and re.search(r"\d\d:\d\d<\d\d:\d\d", shown)
    )
    assert re.search(r", [0-9.]+ [un]s", shown), shown[-500:]
    assert Path(run / "generated" / "manifest.json").exists()
