"""The run folder: where every step of a study leaves its results, its settings and where they came from.

::

    run/
      config.toml        the settings of every step, as they were used
      provenance.json    versions, seeds, input hashes, commit, device, backend of every finished step
      simulation/        xy_0000.npy ... (model systems only)
      tokens/            md_0000.npy ... manifest.json, state_coordinates.npy, tokenizer/
      conditional/       one model of several conditions: model/, checkpoints/, logs/
      model/  checkpoints/  generated/  rare/  interpret/  logs/  report/
      .train.new/ ...    the results of an unfinished step, while an older result is in their place

One process writes at a time (an advisory lock that dies with its process), files appear whole or not at all, and a
result is replaced only by a whole one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from nanomd.base.codec import dump_toml, load_toml
from nanomd.base.environment import environment
from nanomd.base.errors import BackendUnavailableError, InputError, StoreError
from nanomd.base.files import explain_os_error, lock_folder, sweep_parts, write_atomic
from nanomd.base.paths import expand_home
from nanomd.study.provenance import Provenance, differences, mark_stale, plain, read_provenance, stale_notes
from nanomd.study.staging import Staging, is_filled, make_link_targets

T = TypeVar("T", int, str)

# A step's results go stale with the results that they were made from.
STAGES = ("simulate", "tokenize", "condition", "train", "generate", "rare", "interpret", "validate", "report")
_FOLDERS = {
    "simulate": ("simulation",),
    "tokenize": ("tokens",),
    "condition": ("conditional",),
    "train": ("model", "checkpoints", "logs"),
    "generate": ("generated",),
    "rare": ("rare",),
    "interpret": ("interpret",),
    "validate": ("report/validation.json",),
    "report": ("report/index.html", "report/png", "report/pdf", "report/svg"),
}
_RESUMABLE = ("condition", "train", "generate", "rare")
_HOUSEKEEPING = {".lock", "config.toml", "provenance.json"}


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
        self.path = expand_home(path)
        self._made = not self.path.exists()
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
        self.work = self.path  # in place of the run folder for what the step under way writes; see `begin`
        self._begun: str | None = None  # the stage that this process has begun anew

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
    def conditional(self) -> Path:
        """One model of several conditions, its checkpoints and logs."""
        return self.path / "conditional"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of an unfinished or finished training."""
        return self.path / "checkpoints"

    @property
    def generated(self) -> Path:
        """Generated trajectories."""
        return self.path / "generated"

    @property
    def rare(self) -> Path:
        """The result of rare-event sampling."""
        return self.path / "rare"

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

        What a killed process left half written is finished or removed first. A step that ends with a complaint about
        its options leaves everything as it was.

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
            if not shared:
                self._recover()
            try:
                yield self
            except (InputError, BackendUnavailableError):
                self._forget()
                self._unmake()
                raise
            finally:
                self.work, self._begun = self.path, None

    def _recover(self) -> None:
        for folder in (self.path, self.report):
            if folder.is_dir():
                sweep_parts(folder)
        value = self.provenance()
        if value.replacing is not None:
            self._exchange(value)

    def _forget(self) -> None:
        """Undo `begin` of a step that this process has begun anew."""
        if self._begun is None:
            return
        stage, value = self._begun, self.provenance()
        staging = self.staging(stage)
        if staging.exists or not self.outputs(stage):
            staging.discard()
            value.unfinished.pop(stage, None)
            self._write(value)

    def _unmake(self) -> None:
        """Remove the folder if it was made for a step that left nothing in it."""
        if self._made and {file.name for file in self.path.iterdir()} <= _HOUSEKEEPING:
            for file in self.path.iterdir():
                file.unlink()
            self.path.rmdir()

    # --- settings and provenance -------------------------------------------------------------------------------------
    def record_config(self, section: str, values: Mapping[str, Any]) -> None:
        """Write the settings of one step into config.toml; the other sections stay."""
        sections = self._config()
        sections[section] = plain(values)
        write_atomic(self.path / "config.toml", dump_toml(sections))

    def config(self, section: str) -> dict[str, Any]:
        """Return the recorded settings of one step, empty if it was not run."""
        return self._config().get(section, {})

    def setting(self, section: str, name: str, default: T) -> T:
        """Return one recorded setting, of the type of `default`; `StoreError` if it is of another."""
        value = self.config(section).get(name, default)
        if not isinstance(value, type(default)) or isinstance(value, bool):
            raise StoreError(f"{self.path / 'config.toml'} is damaged: [{section}] {name} = {value!r}")
        return value

    def _config(self) -> dict[str, dict[str, Any]]:
        file = self.path / "config.toml"
        sections = load_toml(file) if file.exists() else {}
        if not all(isinstance(values, dict) for values in sections.values()):
            raise StoreError(f"{file} is damaged: it holds more than sections")
        return sections

    def provenance(self) -> Provenance:
        """Return what provenance.json says of every step."""
        return read_provenance(self.path / "provenance.json")

    def _write(self, value: Provenance) -> None:
        write_atomic(self.path / "provenance.json", value.to_json())

    def record(self, stage: str) -> dict[str, Any]:
        """Return what is known of a finished step, empty if it was not finished."""
        return self.provenance().stages.get(stage, {})

    def outputs(self, stage: str) -> list[Path]:
        """Return the files and folders that a step writes and that exist; empty folders do not count."""
        return [self.path / name for name in _FOLDERS[stage] if is_filled(self.path / name)]

    def staging(self, stage: str) -> Staging:
        """Return where a step works while an older result is in its place."""
        return Staging(self.path, stage, _FOLDERS[stage])

    def stale_notes(self, stage: str, *, itself: bool) -> list[str]:
        """Return a line for each stale result that a step builds on."""
        return stale_notes(self.provenance().stages, stage, itself=itself)

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
        """Decide what repeating a step means, and set `work`, where its outputs are to be written.

        The same settings and inputs as those of the finished step: nothing is done. Others: refused, unless `force`
        replaces the results. An unfinished step goes on with `resume` and starts again with `force`. What `force`
        replaces stays in its place until `finish`.

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
        asked = {"settings": plain(settings), "inputs": dict(inputs)}
        value, staging = self.provenance(), self.staging(stage)
        done, existing = value.stages.get(stage), self.outputs(stage)
        unfinished = value.unfinished.get(stage)
        staged = unfinished is not None and staging.exists
        go_on = resume and not force and staged and not differences(unfinished, asked)
        if force or go_on:
            staged = go_on or bool(existing)
        elif done and existing:
            changed = differences(done, asked)
            if changed:
                raise StoreError(
                    f"{self.path} holds the result of another `{stage}`: {changed}; "
                    "use --force to replace it, or another --run"
                )
            if done.get("stale") and not stale_notes(value.stages, stage, itself=False):
                del done["stale"]  # what it was made from is again what it was
                self._write(value)
            return False
        elif existing and not resume and stage in _RESUMABLE:
            raise StoreError(
                f"{self.path} holds an unfinished `{stage}`; go on with --resume, or start again with --force"
            )
        else:
            staged = False
            old = unfinished if unfinished and not staging.exists else {"settings": self.config(stage)}
            if existing and resume and old["settings"] and (changed := differences(old, asked)):
                raise StoreError(
                    f"--resume needs the settings of the unfinished `{stage}`, but {changed}; "
                    "use --force to start again"
                )
            go_on = bool(existing) and resume
        self._begun = None if go_on else stage
        if not go_on:
            staging.discard()
            value.unfinished[stage] = asked
            self._write(value)
        if staged:
            self.work = staging.path
            if not go_on:
                staging.make()
        else:
            make_link_targets([self.path / name for name in _FOLDERS[stage]])
            self.record_config(stage, settings)
        return True

    def lengthen(self, stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str], by: str) -> None:
        """Make a step unfinished that only a larger value of the setting `by` tells from what is asked.

        `begin` with ``resume=True`` then goes on with what is there. Anything else is left to `begin`.
        """
        asked = {"settings": plain(settings), "inputs": dict(inputs)}
        value = self.provenance()
        known = value.stages.get(stage) or value.unfinished.get(stage)
        if known is None or self.staging(stage).exists or not self.outputs(stage):
            return
        old, new = known["settings"].get(by), asked["settings"][by]
        longer = {**known, "settings": {**known["settings"], by: new}}
        if isinstance(old, int) and new > old and not differences(longer, asked):
            value.stages.pop(stage, None)
            value.unfinished[stage] = asked
            self._write(value)

    def finish(
        self, stage: str, settings: Mapping[str, Any], inputs: Mapping[str, str], seconds: float, **extra: Any
    ) -> None:
        """Record a finished step in provenance.json; its outputs take the place of older ones."""
        value = self.provenance()
        value.stages[stage] = {
            "settings": plain(settings),
            "inputs": dict(inputs),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "seconds": round(seconds, 3),
            "environment": environment(),
            **plain(extra),
        }
        value.unfinished.pop(stage, None)
        staging = self.staging(stage)
        if self.work == staging.path:
            value.replacing = (stage, staging.made())
            self._write(value)  # from here on the new result is the one that counts, also if this process is killed
            self._exchange(value)
        else:
            staging.discard()
            mark_stale(value.stages, stage, self.path)
            self._write(value)

    def _exchange(self, value: Provenance) -> None:
        """Let the outputs of the step that was finished last take the place of the older ones."""
        assert value.replacing is not None
        stage, made = value.replacing
        self.staging(stage).exchange(made)
        self.record_config(stage, value.stages[stage]["settings"])
        mark_stale(value.stages, stage, self.path)
        value.replacing = None
        self._write(value)

    def require(self, stage: str, path: Path, hint: str) -> None:
        """Raise unless an earlier step is finished and its result is there."""
        if not self.record(stage) or not path.exists():
            unfinished = f" (an unfinished `{stage}` is there: use its --resume)" if path.exists() else ""
            raise StoreError(f"{self.path} has no finished `{stage}`{unfinished}: run `{hint}` first")
