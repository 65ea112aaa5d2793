"""Time stamps: late ones of 32 bits, uneven ones, and the files of one trajectory in the order of their times."""

from __future__ import annotations

import json

import mdtraj
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from md_files import beads, walk, write_top, write_xtc

from nanomd.base.errors import InputError
from nanomd.cli.main import main
from nanomd.tokenize import Tokenizer
from nanomd.tokenize.times import Piece, Stamps, arrange, common_interval

LATE = [(0, 0.2), (1e6, 0.2), (2e6, 0.2), (5e6, 1.2), (2e7, 1), (2e7, 5), (6.4e7, 10), (1e8, 50), (1e8, 20)]


def stamps(begin, n_frames, interval, where="a.xtc"):
    """Time stamps as a file of 32-bit stamps has them."""
    exact = begin + interval * np.arange(n_frames)
    return Stamps(where, exact.astype(np.float32).astype(np.float64))


# --- the time between frames -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("begin", "interval"), LATE)
def test_late_stamps_give_the_interval(begin, interval, tmp_path):
    xyz = walk(3000)
    top = write_top(tmp_path / "a.pdb", xyz)
    late = write_xtc(tmp_path / "late.xtc", xyz, begin + interval * np.arange(3000))
    found = Tokenizer("distances", n_states=3).fit(top, late).frame_interval
    assert found.unit == "ps" and found.value == pytest.approx(interval, rel=1e-6)


@given(st.integers(2, 3000), st.floats(1e-3, 1e3), st.floats(0, 1e8))
def test_the_interval_is_right_to_the_rounding_of_the_stamps(n_frames, interval, begin):
    late = stamps(begin, n_frames, interval)
    if late.interval > 0:
        found = common_interval([late], 1)
        assert abs(found.value - interval) <= 2.5 * late.uncertainty + 1e-5 * interval


@pytest.mark.parametrize(
    ("times", "says"),
    [
        ([0, 1, 2, 3, 5, 6, 7, 8], "advance by 2 ps after frame 3, but by 1 ps elsewhere"),
        ([0, 1, 2, 3, 3, 4, 5, 6], "advance by 0 ps after frame 3"),
        ([0, 1, 2, 3, 2, 3, 4, 5], "advance by -1 ps after frame 3"),
        ([7, 6, 5, 4, 3, 2, 1, 0], "run backwards"),
        ([0, 1, 2, np.nan, 4, 5, 6, 7], "not finite"),
    ],
)
def test_uneven_stamps_are_refused(times, says):
    with pytest.raises(InputError, match=rf"a\.xtc: the time stamps.*{says}"):
        common_interval([Stamps("a.xtc", np.array(times, float))], 1)


def test_a_missing_frame_is_seen_through_the_rounding():
    # At 100 microseconds stamps are multiples of 8 ps: steps of 50 ps are 48 or 56, and over a missing frame 96 or 104.
    exact = 1e8 + 50.0 * np.delete(np.arange(4000), 2000)
    late = Stamps("a.xtc", exact.astype(np.float32).astype(np.float64))
    with pytest.raises(InputError, match=r"advance by (96|104) ps after frame 1999, but by (48|56) ps"):
        common_interval([late], 1)
    with pytest.raises(InputError, match=r"b\.xtc: the time stamps advance by 4 ps, but by 2 ps in a\.xtc"):
        common_interval([stamps(0, 50, 2), stamps(0, 50, 4, "b.xtc")], 1)


def test_files_without_times_count_frames():
    still = Stamps("b.xtc", np.zeros(9))
    for files in ([None], [stamps(0, 5, 2), None], [still], [stamps(7, 1, 2)]):
        assert common_interval(files, 3).unit == "frame"
    assert str(common_interval([stamps(0, 5, 2), stamps(40, 1, 2)], 3)) == "6 ps"


# --- the files of one trajectory -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A trajectory of 401 frames, a frame each ps, and files of parts of it: the function that writes them."""
    folder = tmp_path_factory.mktemp("parts")
    xyz = walk(401, seed=3)
    top = write_top(folder / "a.pdb", xyz)

    def write(name, begin, end):
        return write_xtc(folder / name, xyz[begin:end], np.arange(begin, end))

    return xyz, top, write


@pytest.mark.parametrize(
    ("spans", "end"),
    [
        ([(0, 101), (101, 201)], 201),
        ([(0, 101), (100, 201)], 201),  # the last frame once more
        ([(0, 301), (150, 401)], 401),  # a restart from an older checkpoint
        ([(101, 201), (0, 101)], 201),  # names in another order than times
        ([(0, 201), (50, 301), (300, 401)], 401),
        ([(0, 1), (1, 2), (2, 401)], 401),
    ],
)
@pytest.mark.parametrize("stride", [1, 7])
def test_parts_are_joined_by_their_times(parts, spans, end, stride):
    _, top, write = parts
    files = [write(f"{'_'.join(f'{b}-{e}' for b, e in spans)}/part{k}.xtc", *span) for k, span in enumerate(spans)]
    whole = Tokenizer("distances", n_states=5, seed=1)
    expected = whole.fit_transform(top, write(f"whole{end}.xtc", 0, end), stride)[0]
    tokenizer = Tokenizer("distances", n_states=5, seed=1)
    found = tokenizer.fit_transform(top, [files], stride)
    assert len(found) == 1 and np.array_equal(found[0], expected)
    assert str(tokenizer.frame_interval) == f"{stride} ps"
    # The frame index counts frames of the files as they are.
    out = tokenizer.to_structures(expected, files[0].parent / f"out{stride}.xtc", seed=2)
    reference = whole.to_structures(expected, files[0].parent / f"ref{stride}.xtc", seed=2)
    assert out.read_bytes() == reference.read_bytes()


@pytest.mark.parametrize(
    ("spans", "says"),
    [
        ([(0, 101), (301, 401)], r"there is a gap between .*0\.xtc \(0 to 100 ps\) and .*1\.xtc \(301 to 400 ps\)"),
        ([(0, 301), (100, 201)], r"0\.xtc .* and .*1\.xtc .*the second lies within the first"),
        ([(0, 101), (101, 201), (101, 301)], r"1\.xtc .* and .*2\.xtc .*begin at the same time"),
    ],
)
def test_parts_that_do_not_continue_each_other_are_refused(parts, spans, says):
    _, top, write = parts
    files = [write(f"bad{len(says)}/{k}.xtc", *span) for k, span in enumerate(spans)]
    for interval in (None, "1 ps"):
        with pytest.raises(InputError, match=says):
            Tokenizer("distances", n_states=5, frame_interval=interval).fit(top, [files])


def test_clocks_that_begin_anew_join_as_given():
    as_given = [Piece(0, 50), Piece(1, 30)]
    assert arrange([stamps(0, 50, 2), stamps(0, 30, 2)], regardless=False) == as_given
    assert arrange([Stamps("a", np.zeros(50)), Stamps("b", np.zeros(30))], regardless=False) == as_given
    uneven = Stamps("b", np.array([0.0, 1, 5, 6, 7]))
    assert arrange([stamps(0, 50, 1), uneven], regardless=True) == [Piece(0, 50), Piece(1, 5)]
    with pytest.raises(InputError, match="advance by 4 ps after frame 1"):
        arrange([stamps(0, 50, 1), uneven], regardless=False)


def test_a_restart_that_is_off_the_grid_is_refused():
    with pytest.raises(InputError, match="time stamps do not match where the second begins"):
        arrange([stamps(0, 50, 2), stamps(31, 50, 2, "b.xtc")], regardless=False)


def test_late_parts_are_joined_through_the_rounding():
    # At 100 microseconds stamps are multiples of 8 ps.
    exact = 1e8 + 20.0 * np.arange(500)
    times = exact.astype(np.float32).astype(np.float64)
    files = [Stamps("a", times[:300]), Stamps("b", times[200:])]
    assert arrange(files[::-1], regardless=False) == [Piece(1, 200), Piece(0, 300)]


def test_join_folders_compares_times(parts, tmp_path, capsys):
    _, top, write = parts
    for k, span in enumerate([(0, 301), (150, 401)]):
        write(f"cli/md.part000{k + 1}.xtc", *span).replace(tmp_path / f"md.part000{k + 1}.xtc")
    files = sorted(map(str, tmp_path.glob("*.xtc")))
    command = ["tokenize", "--quiet", "--top", str(top), "--features", "distances", "--states", "5", "--join-folders"]
    assert main([*command, "--run", str(tmp_path / "run"), *files]) == 0
    manifest = json.loads((tmp_path / "run/tokens/manifest.json").read_text())
    assert [row["n_frames"] for row in manifest["trajectories"]] == [401]
    write("cli/gap.xtc", 350, 401).replace(tmp_path / "md.part0002.xtc")
    assert main([*command, "--run", str(tmp_path / "other"), *files]) == 2
    assert "there is a gap between" in capsys.readouterr().err


def test_files_without_times_are_joined_as_given(tmp_path):
    xyz = walk(60)
    top = write_top(tmp_path / "a.pdb", xyz)
    for k in range(2):
        mdtraj.Trajectory(xyz[30 * k : 30 * k + 30], beads()).save_dcd(str(tmp_path / f"{k}.dcd"))
    tokenizer = Tokenizer("distances", n_states=3)
    (labels,) = tokenizer.fit_transform(top, [[tmp_path / "0.dcd", tmp_path / "1.dcd"]])
    assert len(labels) == 60 and tokenizer.frame_interval.unit == "frame"
