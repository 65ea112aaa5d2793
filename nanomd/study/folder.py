"""The run folder: where every step of a study leaves its results, its settings and where they came from.

::

    run/
      config.toml        the settings of every step, as they were used
      provenance.json    versions, seeds, input hashes, commit, device, backend of every finished step
      simulation/        xy_0000.npy ... (model systems only)
      tokens/            md_0000.npy ... manifest.json, state_coordinates.npy, tokenizer/
      model/  checkpoints/  generated/  interpret/  logs/  report/

One process writes at a time (an advisory lock that dies with its process), and files appear whole or not at all.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanomd.base.codec import dump_toml, load_toml
from nanomd.base.environment import environment
from nanomd.base.errors import BackendUnavailableError, InputError, StoreError
from nanomd.base.files import explain_os_error, lock_folder, write_atomic

# A step's results go stale with the results that they were made from.
STAGES = ("simulate", "tokenize", "train", "generate", "interpret", "validate", "report")
_FOLDERS = {
    "simulate": ("simulation",),
    "tokenize": ("tokens",),
    "train": ("model", "checkpoints", "logs"),
    "generate": ("generated",),
    "interpret": ("interpret",),
    "validate": ("report/validation.json",),
    "report": ("report/index.html", "report/png"),
}


class RunFolder:
    """A run folder, made if needed.

    Parameters
    ----------
    path : str or Path
        The folder.
    create : bool
        Make it if it is absent; with False an absent folder is an error.

    Raises
    ------
    StoreError
        If the folder is absent, is a file, or cannot be written.
    """

    def __init__(self, path: str | Path, create: bool = True) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise StoreError(f"run folder {self.path} is a file; give a folder")
        if not self.path.exists():
            if not create:
                raise StoreError(
                    f"run folder {self.path} does not exist; make it with an earlier step, such as `nanomd tokenize`"
                )
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"run folder {self.path} cannot be made: {explain_os_error(error)}") from None
        self._set_aside: tuple[str, dict[str, Any], dict[str, Any], list[tuple[Path, Path]]] | None = None

    @property
    def simulation(self) -> Path:
        """Coordinates of a model system."""
        return self.path / "simulation"

    @property
    def tokens(self) -> Path:
        """Discrete trajectories, their manifest, and the tokenizer."""
        return self.path / "tokens"

    @property
    def model(self) -> Path:
        """The trained model."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of an unfinished or finished training."""
        return self.path / "checkpoints"

    @property
    def generated(self) -> Path:
        """Generated trajectories."""
        return self.path / "generated"

    @property
    def interpret(self) -> Path:
        """What the model has learnt: attention, causal tracing, memory length, distances."""
        return self.path / "interpret"

    @property
    def logs(self) -> Path:
        """metrics.jsonl."""
        return self.path / "logs"

    @property
    def report(self) -> Path:
        """validation.json, index.html and the pictures."""
        return self.path / "report"

    # --- one writer at a time ----------------------------------------------------------------------------------------
    @contextmanager
    def lock(self, shared: bool = False) -> Iterator[RunFolder]:
        """Hold the folder for writing; a second writer is refused at once. The lock ends with its process.

        Parameters
        ----------
        shared : bool
            Allow others that ask for a shared lock too: processes that write to folders of their own in it.

        Raises
        ------
        StoreError
            If another process writes here (its process id is named), or the folder cannot be written.
        """
        with lock_folder(self.path, shared=shared):
            try:
                yield self
            except (InputError, BackendUnavailableError):
                self._put_back()
                raise

    # --- settings and provenance -------------------------------------------------------------------------------------
    def record_config(self, section: str, values: Mapping[str, Any]) -> None:
        """Write the settings of one step into config.toml; the other sections stay."""
        file = self.path / "config.toml"
        sections = load_toml(file) if file.exists() else {}
        sections[section] = _plain(values)
        write_atomic(file, dump_toml(sections))

    def config(self, section: str) -> dict[str, Any]:
        """Return the recorded settings of one step, empty if it was not run."""
        file = self.path / "config.toml"
        return dict(load_toml(file).get(section, {})) if file.exists() else {}

    def provenance(self) -> dict[str, Any]:
        """Return provenance.json: ``{"stages": {stage: record}}``."""
        file = self.path / "provenance.json"
        if not file.exists():
            return {"format": "nanomd-run", "format_version": 1, "stages": {}}
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
            stages = value["stages"]
        except (ValueError, KeyError, TypeError):
            stages = None
        if not isinstance(stages, dict) or not all(isinstance(record, dict) for record in stages.values()):
            raise StoreError(f"{file} is damaged; remove it and repeat the steps with --force")
        return dict(value)

    def record(self, stage: str) -> dict[str, Any]:
        """Return what is known of a finished step, empty if it was not finished."""
        return dict(self.provenance()["stages"].get(stage, {}))

    def outputs(self, stage: str) -> list[Path]:
        """Return the files and folders that a step writes and that exist."""
        return [self.path / name for name in _FOLDERS[stage] if (self.path / name).exists()]

    # --- repeating a step --------------------------------------------------------------------------------------------
    def begin(
        self,
        stage: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        *,
        force: bool = False,
        resume: bool = False,
    ) -> bool:
        """Decide what repeating a step means.

        The same settings and inputs as those of the finished step: nothing is done. Others: refused, unless `force`
        replaces the results. An unfinished step goes on with `resume` and starts again with `force`. What `force`
        replaces is set aside until the step is finished, and comes back if the new options turn out to be wrong.

        Parameters
        ----------
        stage : str
            One of `STAGES`.
        settings : mapping
            Everything that the result depends on, plain values.
        inputs : mapping
            Name and SHA-256 of every input.
        force, resume : bool
            Flags of the user.

        Returns
        -------
        bool
            Whether there is work to do.
        """
        settings = _plain(settings)
        done, existing = self.record(stage), self.outputs(stage)
        if force:
            self._put_aside(stage, done, existing)
        elif done and existing:
            old = done.get("settings", {})
            changed = sorted(k for k in {*old, *settings} if old.get(k) != settings.get(k))
            changed += [
                f"input {k}"
                for k in sorted({*done.get("inputs", {}), *inputs})
                if done.get("inputs", {}).get(k) != inputs.get(k)
            ]
            if not changed:
                return False
            shown = ", ".join(
                f"{k} ({old.get(k)} -> {settings.get(k)})" if k in {*old, *settings} else k for k in changed[:4]
            )
            raise StoreError(
                f"{self.path} holds the result of another `{stage}`: {shown} differ{'s' if len(changed) == 1 else ''}; "
                "use --force to replace it, or another --run"
            )
        elif existing and not resume and stage in {"train", "generate"}:
            raise StoreError(
                f"{self.path} holds an unfinished `{stage}`; go on with --resume, or start again with --force"
            )
        elif existing and resume:
            old = self.config(stage)
            new = {k: v for k, v in settings.items() if v is not None}
            changed = sorted(k for k in {*old, *new} if old.get(k) != new.get(k)) if old else []
            if changed:
                shown = ", ".join(f"{k} ({old.get(k)} -> {new.get(k)})" for k in changed[:4])
                raise StoreError(
                    f"--resume needs the settings of the unfinished `{stage}`, but {shown} changed; "
                    "use --force to start again"
                )
        self.record_config(stage, settings)
        return True

    def finish(
        self, stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str], seconds: float, **extra: Any
    ) -> None:
        """Record a finished step in provenance.json."""
        value = self.provenance()
        value["stages"][stage] = {
            "settings": _plain(settings),
            "inputs": dict(inputs),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(seconds, 3),
            "environment": environment(),
            **_plain(extra),
        }
        write_atomic(self.path / "provenance.json", json.dumps(value, indent=1) + "\n")
        if self._set_aside is not None:
            for _, aside in self._set_aside[3]:
                _remove(aside)
            self._set_aside = None

    def require(self, stage: str, path: Path, hint: str) -> None:
        """Raise unless an earlier step is finished and its result is there."""
        if not self.record(stage) or not path.exists():
            unfinished = f" (an unfinished `{stage}` is there: use its --resume)" if path.exists() else ""
            raise StoreError(f"{self.path} has no finished `{stage}`{unfinished}: run `{hint}` first")

    def _put_aside(self, stage: str, record: dict[str, Any], outputs: list[Path]) -> None:
        """Rename the results of a step, and forget that it was finished."""
        self._write_record(stage, {})
        moved = []
        for path in outputs:
            aside = path.with_name(f".replaced-{path.name}")
            _remove(aside)
            path.rename(aside)
            moved.append((path, aside))
        self._set_aside = (stage, record, self.config(stage), moved)

    def _put_back(self) -> None:
        """Undo `_put_aside`."""
        if self._set_aside is None:
            return
        stage, record, settings, moved = self._set_aside
        for path, aside in moved:
            _remove(path)
            aside.rename(path)
        self.record_config(stage, settings)
        self._write_record(stage, record)
        self._set_aside = None

    def _write_record(self, stage: str, record: dict[str, Any]) -> None:
        value = self.provenance()
        if record:
            value["stages"][stage] = record
        elif value["stages"].pop(stage, None) is None:
            return
        write_atomic(self.path / "provenance.json", json.dumps(value, indent=1) + "\n")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Through JSON and back, so that recorded and fresh settings compare equal."""
    result: dict[str, Any] = json.loads(json.dumps(dict(values), default=str))
    return result
