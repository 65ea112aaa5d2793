import io
import pickle
import struct
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nanomd.base.errors import InputError
from nanomd.data.dtrajs import load_dtrajs, save_dtrajs, split_dtrajs
from nanomd.data.states import StateMap, token_dtype

LABELS = hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(-2, 40))
DTRAJS = st.lists(LABELS, min_size=1, max_size=5)


def test_one_array_is_one_trajectory():
    for source in (np.array([0, 1, 2], np.uint8), [0, 1, 2], (0, 1, 2), [np.array([0.0, 1.0, 2.0])]):
        (loaded,) = load_dtrajs(source)
        assert loaded.dtype == np.int64 and loaded.tolist() == [0, 1, 2]


def test_loading_never_aliases_the_callers_array():
    mine = np.array([0, 1, 2])
    load_dtrajs(mine)[0][0] = 9
    assert mine[0] == 0


def test_files_of_every_kind_sorted_naturally(tmp_path):
    for index in (10, 2, 1):
        np.save(tmp_path / f"run_{index}.npy", np.full(index, index))
    assert [a.size for a in load_dtrajs(str(tmp_path / "run_*.npy"))] == [1, 2, 10]
    assert [a.size for a in load_dtrajs([tmp_path / "run_10.npy", tmp_path / "run_1.npy"])] == [10, 1]
    np.savez(tmp_path / "all.npz", traj_10=np.array([1, 1]), traj_9=np.array([0]))
    assert [a.tolist() for a in load_dtrajs(tmp_path / "all.npz")] == [[0], [1, 1]]
    (tmp_path / "a.txt").write_text("# a comment\n3\n-1\n4\n")
    (tmp_path / "b.txt").write_text("3 -1 4\n")
    np.savetxt(tmp_path / "c.txt", np.array([3, -1, 4]))
    assert [a.tolist() for a in load_dtrajs(str(tmp_path / "?.txt"))] == [[3, -1, 4]] * 3
    # A name with magic characters that exists is a file, not a pattern.
    np.save(tmp_path / "odd[1].npy", np.array([5]))
    assert load_dtrajs(str(tmp_path / "odd[1].npy"))[0].tolist() == [5]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ([], "empty"),
        ([[]], "empty"),
        ([[1.5, 2.0]], r"1\.5 at frame 0"),
        ([[1, 2], [0, np.nan]], r"dtrajs\[1\].*nan at frame 1"),
        ([np.array([1.0, np.inf])], "inf"),
        (np.zeros((3, 2), int), "1-D.*shape"),
        (np.array([None, 1]), "integers"),
        (np.array(["a", "b"]), "integers"),
        ([np.array([0, 2**31])], "labels outside"),
        (np.array([2**64 - 1], np.uint64), "labels outside"),
        ([np.array([0]), "file.npy"], "mixes"),
        (3, "arrays, paths or a pattern"),
        ("missing.npy", "does not exist"),
        ("nothing_*.npy", "no dtraj file matches"),
    ],
)
def test_bad_input_is_named(source, says):
    with pytest.raises(InputError, match=says):
        load_dtrajs(source)


def test_bad_files_are_named(tmp_path):
    def refused(name, says):
        with pytest.raises(InputError, match=says) as caught:
            load_dtrajs(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)

    np.save(tmp_path / "objects.npy", np.array([None, 1]), allow_pickle=True)
    refused("objects.npy", "Python objects")
    np.savez(tmp_path / "objects.npz", a=np.array([None, 1]))
    refused("objects.npz", "Python objects")
    (tmp_path / "pickle.npy").write_bytes(pickle.dumps([1, 2]))
    refused("pickle.npy", "cannot be read|Python objects")
    np.save(tmp_path / "whole.npy", np.arange(1000))
    data = (tmp_path / "whole.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(data[:500])
    refused("cut.npy", "cannot be read")
    (tmp_path / "empty.npy").write_bytes(b"")
    refused("empty.npy", "cannot be read")
    np.save(tmp_path / "none.npy", np.array([], int))
    refused("none.npy", "empty|cannot be read")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 not a zip")
    refused("cut.npz", "cannot be read")
    np.savez(tmp_path / "no_arrays.npz")
    refused("no_arrays.npz", "holds no array")
    np.save(tmp_path / "grid.npy", np.zeros((4, 2), int))
    refused("grid.npy", "1-D")
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    refused("words.txt", "cannot be read")
    (tmp_path / "columns.txt").write_text("1 2\n3 4\n")
    refused("columns.txt", "one label per line")
    (tmp_path / "blank.txt").write_text("# nothing\n")
    refused("blank.txt", "empty")
    (tmp_path / "traj.dat").write_text("1\n")
    refused("traj.dat", "must be one of")
    with pytest.raises(InputError, match="is a folder"):
        load_dtrajs(tmp_path)


def test_a_header_that_promises_terabytes_allocates_nothing(tmp_path):
    buffer = io.BytesIO()
    header = "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,), }"
    header = header.ljust(117) + "\n"
    buffer.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + b"\0" * 64)
    (tmp_path / "liar.npy").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match=r"liar\.npy"):
        load_dtrajs(tmp_path / "liar.npy")


@given(DTRAJS)
def test_state_map_round_trip(dtrajs):
    if all((array < 0).all() for array in dtrajs):
        with pytest.raises(InputError, match="unassigned"):
            StateMap.fit(dtrajs)
        return
    state_map = StateMap.fit(dtrajs)
    assert StateMap.from_dict(state_map.to_dict()) == state_map
    pieces = state_map.encode(dtrajs)
    # The oracle: cut by hand at negative labels, and keep what has at least two frames.
    expected, current = [], []
    for array in dtrajs:
        for label in [*array.tolist(), -1]:
            if label >= 0:
                current.append(label)
            else:
                if len(current) >= 2:
                    expected.append(current)
                current = []
    assert [state_map.decode(piece).tolist() for piece in pieces] == expected
    for piece in pieces:
        assert piece.dtype == state_map.dtype and piece.max() < state_map.n_states


@given(hnp.arrays(np.int64, st.integers(2, 50), elements=st.integers(0, 2**31 - 1)))
def test_encoding_keeps_the_order_of_labels(labels):
    state_map = StateMap.fit([labels])
    tokens = state_map.encode_labels(labels)
    assert np.array_equal(state_map.decode(tokens), labels)
    assert np.array_equal(np.argsort(tokens, kind="stable"), np.argsort(labels, kind="stable"))


def test_unknown_states_are_refused():
    state_map = StateMap.fit([np.array([3, 7, 20])])
    for label in (0, 5, 21, -1):
        with pytest.raises(InputError, match=f"unknown state {label}"):
            state_map.encode_labels([3, label])
    with pytest.raises(InputError, match="unknown state 4"):
        state_map.encode([np.array([3, 4, 7])])
    with pytest.raises(InputError, match=r"tokens must be in \[0, 2\]"):
        state_map.decode([3])
    assert state_map.encode_labels([[3, 7], [20, 3]]).tolist() == [[0, 1], [2, 0]]


def test_tokens_are_as_small_as_they_can_be():
    assert token_dtype(256) == np.uint8 and token_dtype(257) == np.uint16 and token_dtype(65536) == np.uint16
    with pytest.raises(InputError, match="n_states"):
        token_dtype(65537)
    with pytest.raises(InputError, match="at most 65536"):
        StateMap.fit([np.arange(65537)])
    full = StateMap.fit([np.arange(65536)])
    assert full.encode_labels([65535])[0] == 65535


@pytest.mark.parametrize(
    "values", [{}, {"symbols": []}, {"symbols": "12"}, {"symbols": [1, 1]}, {"symbols": [2, 1, 2]},
               {"symbols": [-1, 2]}, {"symbols": [0, 1.0]}, {"symbols": [0, True]}, {"symbols": [0, 2**80]},
               {"symbols": list(range(70000))}]
)  # fmt: skip
def test_hostile_state_maps_are_refused(values):
    with pytest.raises(InputError):
        StateMap.from_dict(values)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=12),
    st.floats(0.01, 0.9),
    st.integers(1, 30),
)
def test_split_loses_and_repeats_no_frame(lengths, fraction, min_length):
    # Frames carry unique numbers, so that a frame in both parts, or in none, is seen.
    edges = np.concatenate(([0], np.cumsum(lengths)))
    dtrajs = [np.arange(a, b) for a, b in pairwise(edges)]
    try:
        train, validation = split_dtrajs(dtrajs, fraction, min_length)
    except InputError:
        # Refused only where no trajectory can give both sides a piece.
        for n in lengths:
            held = round(fraction * n)
            assert held < min_length or n - held < min_length
        return
    assert train and validation
    assert np.array_equal(np.sort(np.concatenate(train + validation)), np.arange(edges[-1]))
    assert all(np.all(np.diff(piece) == 1) for piece in train + validation)
    assert max(map(len, validation)) >= min_length


def test_split_takes_whole_trajectories_or_the_end_of_each():
    whole, held = split_dtrajs([np.full(100, k) for k in range(10)], 0.2)
    assert len(whole) == 8 and [int(a[0]) for a in held] == [2, 7]
    train, held = split_dtrajs([np.arange(100), np.arange(1000)], 0.1)
    assert [len(a) for a in train] == [90, 900] and held[0].tolist() == list(range(90, 100))
    assert split_dtrajs([np.arange(5)], 0)[1] == []
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(InputError, match="fraction"):
            split_dtrajs([np.arange(5)], fraction)
    with pytest.raises(InputError, match="long enough"):
        split_dtrajs([np.arange(5)], 0.1)


def test_save_and_load(tmp_path):
    dtrajs = [np.array([0, 300, -1]), np.array([5])]
    paths = save_dtrajs(dtrajs, tmp_path / "tokens")
    assert [path.name for path in paths] == ["md_0000.npy", "md_0001.npy"]
    assert [a.tolist() for a in load_dtrajs(str(tmp_path / "tokens" / "md_*.npy"))] == [a.tolist() for a in dtrajs]
    assert np.load(paths[0]).dtype.itemsize == 2
    with pytest.raises(InputError, match="overwrite"):
        save_dtrajs(dtrajs, tmp_path / "tokens")
    (tmp_path / "tokens" / "md_notes.npy").write_bytes(b"mine")
    save_dtrajs(dtrajs[:1], tmp_path / "tokens", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "tokens").iterdir()) == ["md_0000.npy", "md_notes.npy"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        save_dtrajs(dtrajs, tmp_path / "file")


def test_importing_is_light():
    code = "import sys, nanomd.data.dtrajs, nanomd.tokenize, nanomd.systems.alanine_dipeptide;"
    code += "import nanomd.systems.ww_domain;"
    code += "print([m for m in ('torch', 'mdtraj', 'deeptime', 'sklearn', 'scipy', 'matplotlib') if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
