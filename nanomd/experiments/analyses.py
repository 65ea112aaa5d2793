"""The paper's analyses of one of its systems, as tables: passages, timescales, populations, changes, and the inside.

All of data set 0. Of the paper's training two stages are shown: the one with the lowest loss on held-out data, and the
last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanomd.base.files import write_atomic
from nanomd.experiments import tables
from nanomd.experiments.case import Case
from nanomd.experiments.fitted import known_states
from nanomd.experiments.runner import prepare, scored_frames, write_json
from nanomd.experiments.scoring import array
from nanomd.experiments.tables import Row

#: Frames back over which attention is summed up: [first, last].
LAGS = ((0, 0), (1, 1), (2, 4), (5, 9), (10, 19), (20, 49), (50, 99))


def analyse(case: Case, folder: str | Path, *, data: str | Path | None = None) -> str:
    """Write analyses.md of an experiment, and return it; models are looked into once, and recorded.

    Parameters
    ----------
    case : Case
    folder : path
        The experiment's.
    data : path, optional
        Folder of the molecular dynamics.
    """
    folder = Path(folder)
    references, records = tables.load_records(folder)
    if 0 not in references:
        return ""
    names = references[0]["macrostate_names"]
    sources = choose(references[0], records, case.lagtime)
    parts = [
        "## Passage times between all pairs, frames",
        _pairs(sources, names, "mfpt"),
        "## Changes of macrostate per 100,000 frames",
        _pairs({name: s for name, s in sources.items() if s.get("changes")}, names, "changes"),
        "## Populations",
        _table(["source", *names], [[n, *_numbers(_value(s, "populations"))] for n, s in sources.items()]),
        "## Slowest implied timescale against lag, frames",
        _timescales(sources),
    ]
    inside = {name: _look_inside(case, folder, stem, data) for name, stem in _models(folder, records).items()}
    if inside:
        parts += ["## Inside the models", _inside(inside)]
    text = "\n\n".join(parts) + "\n"
    write_atomic(folder / "analyses.md", text)
    return text


def choose(reference: Row, records: Sequence[Row], lagtime: int) -> dict[str, Row]:
    """Return the kinetics of what is shown side by side, by name: MD, baselines, and a training of every method."""
    shown = ("MD held out", "MD training", f"MSM lag {lagtime}", "memory kernel")
    sources = {name: reference["sources"][name] for name in shown if name in reference["sources"]}
    first = [r for r in records if not r["pieces"] and (r["dataset"], r["seed"]) == (0, 0)]
    for record in first:
        if not _is_stage(record):
            sources[tables.label(record)] = record["kinetics"]
    for record in _stages(first):
        sources[tables.label(record)] = record["kinetics"]
    return sources


def _is_stage(record: Row) -> bool:
    return bool(record["method"].startswith("paper") and record["n_steps"])


def _stages(records: Sequence[Row]) -> list[Row]:
    """Return, of the paper's trainings, the stage with the lowest loss on held-out data, and the last."""
    stages = sorted((r for r in records if _is_stage(r) and r["method"] == "paper"), key=lambda r: int(r["n_steps"]))
    if not stages:
        return []
    best = min(stages, key=lambda r: float(r["held_out_nll"]))
    return [best] if best is stages[-1] else [best, stages[-1]]


def _value(source: Row, key: str) -> Any:
    found = source[key]
    return array(found["value"] if isinstance(found, Mapping) else found)


def _numbers(values: Any) -> list[str]:
    return ["" if not np.isfinite(v) else f"{v:.3g}" if abs(v) < 1000 else f"{v:,.0f}" for v in np.ravel(values)]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def _pairs(sources: Mapping[str, Row], names: Sequence[str], key: str) -> str:
    """Return a table with a row for every ordered pair of macrostates and a column for every source."""
    values = {name: _value(source, key) for name, source in sources.items()}
    pairs = [(a, b) for a in range(len(names)) for b in range(len(names)) if a != b]
    rows = [[f"{names[a]} to {names[b]}", *(_numbers(v[a, b])[0] for v in values.values())] for a, b in pairs]
    return _table(["pair", *values], rows)


def _timescales(sources: Mapping[str, Row]) -> str:
    known = {name: source for name, source in sources.items() if source.get("timescales_by_lag")}
    lags = sorted({lag for source in known.values() for lag in source["lagtimes"]})
    rows = []
    for name, source in known.items():
        slowest = dict(zip(source["lagtimes"], array(source["timescales_by_lag"])[:, 0], strict=True))
        rows.append([name, *(_numbers(slowest.get(lag, np.nan))[0] for lag in lags)])
    return _table(["lag", *map(str, lags)], rows)


def _models(folder: Path, records: Sequence[Row]) -> dict[str, str]:
    """Return the models that are looked into: the paper's two stages, and the default."""
    first = [r for r in records if not r["pieces"] and (r["dataset"], r["seed"]) == (0, 0)]
    chosen = {tables.label(r): f"paper_data0_seed0_step{r['n_steps']:06d}" for r in _stages(first)}
    if any(r["method"] == "default" for r in first):
        chosen["default"] = "default_data0_seed0"
    return {name: stem for name, stem in chosen.items() if (folder / "models" / stem).is_dir()}


def _look_inside(case: Case, folder: Path, stem: str, data: str | Path | None) -> Row:
    """Return attention by lag, causal tracing, memory and distances of a model on held-out data; made once."""
    from nanomd.interpret import interpret_model
    from nanomd.training.gpt_model import load_model

    path = folder / "inside" / f"{stem}.json"
    if not path.exists():
        material = prepare(case, 0, data, folder)
        model = load_model(folder / "models" / stem)
        known = known_states(scored_frames(material.data.held_out), model.state_map.symbols)
        found = interpret_model(model, known, training=material.data.training)
        attention, tracing = found.attention, found.tracing
        mean = attention.mean.value.mean(axis=(0, 1))
        write_json(
            path,
            {
                "frame_stride": model.frame_stride,
                "attention": [
                    float(mean[(attention.lags >= low) & (attention.lags <= high)].sum()) for low, high in LAGS
                ],
                "traced_lags": tracing.lags.tolist(),
                "clean": float(tracing.clean.value),
                "corrupted": float(tracing.corrupted.value),
                "single": tracing.single.value.tolist(),
                "memory": [found.memory.low, found.memory.frames, found.memory.high],
                "distances": found.distances.correlation.value.tolist(),
                "p_values": found.distances.p_value.tolist(),
            },
        )
    result: Row = json.loads(path.read_text(encoding="utf-8"))
    return result


def _inside(found: Mapping[str, Row]) -> str:
    attention = _table(
        ["share of attention, by steps back", *(f"{a}" if a == b else f"{a} to {b}" for a, b in LAGS)],
        [[name, *(f"{x:.2f}" for x in row["attention"])] for name, row in found.items()],
    )
    lags = max((row["traced_lags"] for row in found.values()), key=len)
    rows = []
    for name, row in found.items():
        effect = dict(zip(row["traced_lags"], row["single"], strict=True))
        rows.append(
            [
                name,
                f"{row['clean']:.3f}",
                f"{row['corrupted']:.3f}",
                *(f"{effect[k]:.3f}" if k in effect else "" for k in lags),
            ]
        )
    tracing = _table(["probability of the next state", "intact", "all corrupted", *(f"{k} back" for k in lags)], rows)
    rest = _table(
        ["model", "frames a step", "memory, steps", "distances: kinetic", "commute"],
        [
            [
                name,
                str(row["frame_stride"]),
                f"{row['memory'][1]} [{row['memory'][0]}, {row['memory'][2]}]",
                *(f"{r:.2f} (p {p:.3f})" for r, p in zip(row["distances"], row["p_values"], strict=True)),
            ]
            for name, row in found.items()
        ],
    )
    note = (
        "Causal tracing: what the probability of the observed next state loses when one frame alone is corrupted. "
        "Distances: rank correlation of those between embeddings with kinetic and commute distances."
    )
    return "\n\n".join([attention, tracing, rest, note])
