"""Tokenizers on disk: saved and loaded, damaged and forged."""

import json

import numpy as np
import pytest

from nanomd.base.errors import InputError
from nanomd.base.files import sha256_of
from nanomd.base.units import FrameInterval
from nanomd.tokenize import Tokenizer


@pytest.mark.parametrize("reduction", [None, "tica", "vamp"])
def test_saved_and_loaded_is_the_same(md, reduction):
    folder, top, files, _ = md
    tokenizer = Tokenizer("distances", reduction=reduction, lagtime=2, n_states=5, seed=2)
    dtrajs = tokenizer.fit_transform(top, files, stride=2)
    tokenizer.save(folder / "tok")
    assert sorted(path.name for path in (folder / "tok").iterdir()) == [
        ".lock",
        "frames_index.npz",
        "tokenizer.json",
        "tokenizer.npz",
    ]
    loaded = Tokenizer.load(folder / "tok")
    assert all(np.array_equal(a, b) for a, b in zip(loaded.transform(top, files), dtrajs, strict=True))
    assert loaded.frame_interval == tokenizer.frame_interval == FrameInterval(4.0, "ps")
    assert np.array_equal(loaded.centers, tokenizer.centers) and loaded.sources == tokenizer.sources
    labels = np.arange(50) % 5
    a = tokenizer.to_structures(labels, folder / "a.xtc", seed=9)
    assert loaded.to_structures(labels, folder / "b.xtc", seed=9).read_bytes() == a.read_bytes()
    loaded.save(folder / "tok")  # over itself
    assert Tokenizer.load(folder / "tok").n_states == 5


def test_functions_are_not_stored_and_must_be_brought_again(md):
    folder, top, files, _ = md

    def first_atom(chunk):
        return chunk.xyz[:, 0]

    tokenizer = Tokenizer(first_atom, n_states=3)
    dtrajs = tokenizer.fit_transform(top, files)
    tokenizer.save(folder / "tok")
    loaded = Tokenizer.load(folder / "tok")
    loaded.to_structures(np.arange(3), folder / "fine.xtc")
    with pytest.raises(InputError, match="functions are not stored"):
        loaded.transform(top, files)
    again = Tokenizer.load(folder / "tok", features=first_atom).transform(top, files)
    assert all(np.array_equal(a, b) for a, b in zip(again, dtrajs, strict=True))


def _edit(folder, change):
    settings = json.loads((folder / "tokenizer.json").read_text())
    change(settings)
    (folder / "tokenizer.json").write_text(json.dumps(settings))


def test_damaged_and_hostile_tokenizers_are_refused(md):
    folder, top, files, _ = md
    tok = folder / "tok"
    tokenizer = Tokenizer("distances", reduction="tica", lagtime=2, n_states=4).fit(top, files)

    def refused(says):
        with pytest.raises(InputError, match=says) as caught:
            Tokenizer.load(tok)
        assert "\n" not in str(caught.value)
        tokenizer.save(tok)
        Tokenizer.load(tok)

    with pytest.raises(InputError, match="holds no tokenizer"):
        Tokenizer.load(tok)
    tokenizer.save(tok)
    data = (tok / "tokenizer.npz").read_bytes()
    (tok / "tokenizer.npz").write_bytes(data[:-40])
    refused("checksum differs")
    (tok / "frames_index.npz").unlink()
    refused("frames_index.npz is missing")
    (tok / "tokenizer.json").write_text("{")
    refused("cannot be read")
    (tok / "tokenizer.json").write_text("[1]")
    refused("not the settings of a tokenizer")
    _edit(tok, lambda s: s.update(format_version=2))
    refused("format version 2")
    _edit(tok, lambda s: s.update(n_states=5))
    refused(r"'centers' must be float64 of shape \(5, ")
    _edit(tok, lambda s: s.pop("sources"))
    refused("damaged.*sources")
    _edit(tok, lambda s: s["sources"][0].update(n_frames=3))
    refused("do not fit each other")
    _edit(tok, lambda s: s.update(features=[{"name": "distances", "options": {"exec": 1}}]))
    refused("unknown options")
    _edit(tok, lambda s: s.update(features=7))
    refused("damaged")

    def rewrite(name, **changes):
        # A forger who also fixes the checksum.
        with np.load(tok / name) as old:
            arrays = {**{key: old[key] for key in old.files}, **changes}
        np.savez(tok / name, **arrays)
        _edit(tok, lambda s: s["sha256"].update({name: sha256_of(tok / name)}))

    rewrite("tokenizer.npz", centers=np.full_like(tokenizer.centers, np.nan))
    refused("not finite")
    rewrite("tokenizer.npz", reduction_mean=np.zeros(3))
    refused("reduction_mean")
    rewrite("tokenizer.npz", centers=np.array([None]))
    refused("cannot be read")
    rewrite("frames_index.npz", files=tokenizer.frame_index.file + 1)
    refused("do not fit each other")
    rewrite("frames_index.npz", frames=tokenizer.frame_index.frame - 1)
    refused("do not fit each other")
    rewrite("frames_index.npz", offsets=tokenizer.frame_index.offsets[::-1].copy())
    refused("do not fit each other")
