"""Files of NumPy arrays: what a header promises is checked before a byte is mapped or allocated."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nanomd.base.arrays import load_array, map_npy, read_npz
from nanomd.base.errors import InputError, StoreError
from nanomd.data.dtrajs import load_dtrajs


def with_header(header: str, data: bytes = b"\0" * 24, width: int = 118) -> bytes:
    text = header.encode().ljust(width - 1) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


BAD_HEADERS = {
    "no bytes in an element": "{'descr': '|S0', 'fortran_order': False, 'shape': (-1,)}",
    "a negative length": "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}",
    "more than the file holds": "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000,)}",
    "more than any machine holds": "{'descr': '<i8', 'fortran_order': False, 'shape': (2000000000000000000000,)}",
    "nothing of impossible length": "{'descr': '<i8', 'fortran_order': False, 'shape': (0, 2000000000000000000000)}",
    "a truth value as a length": "{'descr': '<i8', 'fortran_order': False, 'shape': (True,)}",
    "Python objects": "{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
    "records": "{'descr': [('a', '<i8')], 'fortran_order': False, 'shape': (1,)}",
    "nested too deeply": "(" * 100 + ")" * 100,
    "an unclosed bracket": "{'descr': '<i8', 'shape': (",
    "text that is no header": "\x00\xffhello",
    "times": "{'descr': '<M8[s]', 'fortran_order': False, 'shape': (3,)}",
}


@pytest.mark.parametrize("header", BAD_HEADERS.values(), ids=list(BAD_HEADERS))
def test_bad_headers_are_one_line_errors(tmp_path: Path, header: str) -> None:
    data = with_header(header)
    file = tmp_path / "x.npy"
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"x\.npy cannot be read: [^\n]+$"):
        map_npy(file)
    with pytest.raises(InputError, match=r"x\.npy cannot be read"):
        load_dtrajs(file)
    with pytest.raises(StoreError, match=r"x\.npy cannot be read"):
        load_array(file, (3,), "int64")
    packed = tmp_path / "x.npz"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.npy", data)
    with pytest.raises(InputError, match=r"x\.npz cannot be read: [^\n]+$"):
        read_npz(packed)


def test_a_header_of_no_bytes_does_not_end_the_process(tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    file.write_bytes(with_header(BAD_HEADERS["no bytes in an element"], b"", 90))
    assert file.stat().st_size == 100
    code = (
        "import sys; from nanomd import load_dtrajs\n"
        "try:\n load_dtrajs(sys.argv[1])\nexcept ValueError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(7,), (3, 4), (0,), (0, 3), ()])
def test_good_files_come_back(tmp_path: Path, shape: tuple[int, ...], order: str) -> None:
    array = np.asarray(np.arange(np.prod(shape)).reshape(shape), order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", array)
    np.testing.assert_array_equal(map_npy(tmp_path / "x.npy"), array)
    np.savez(tmp_path / "x.npz", a=array, text=np.array(["é"]))
    found = read_npz(tmp_path / "x.npz")
    np.testing.assert_array_equal(found["a"], array)
    assert found["text"].tolist() == ["é"]
    np.savez_compressed(tmp_path / "y.npz", a=array)
    np.testing.assert_array_equal(read_npz(tmp_path / "y.npz", compressed=True)["a"], array)
    with pytest.raises(InputError, match="compressed"):
        read_npz(tmp_path / "y.npz")


def test_cut_and_flipped_archives_are_noticed(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(100))
    good, file = buffer.getvalue(), tmp_path / "x.npz"
    for bad in (good[:-30], good[:200] + b"\1" + good[201:], b"", b"PK"):
        file.write_bytes(bad)
        with pytest.raises(InputError, match="cannot be read"):
            read_npz(file)


@pytest.mark.parametrize(("shape", "hint"), [((5, 1), "[:, 0]"), ((1, 5), "[0]"), ((3, 5), "list(array)")])
def test_a_trajectory_with_an_axis_too_many_gets_a_hint_that_fits(shape: tuple[int, int], hint: str) -> None:
    with pytest.raises(InputError, match="1-D") as caught:
        load_dtrajs(np.zeros(shape, int))
    assert hint in str(caught.value)
