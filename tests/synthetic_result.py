"""A made-up but plausible `ValidationResult`: a non-Markovian system, a good model, and an MSM that is too fast."""

from __future__ import annotations

import numpy as np

from nanomd.base.units import FrameInterval
from nanomd.kinetics.interval import Interval
from nanomd.kinetics.passage_error import mfpt_error
from nanomd.kinetics.results import Cell, SourceKinetics, ValidationResult, VerdictRow


def interval(value, relative, rng=None, scatter=0.0):
    """Value with a relative 95 % half-width; with rng, the value scatters by a share of that width first."""
    value = np.asarray(value, float)
    if rng is not None:
        value = value * np.exp(rng.normal(size=value.shape) * relative * scatter)
    return Interval(value, value * np.exp(-relative), value * np.exp(relative))


def source(name, rng, *, n_states, n_macro, speed, memory, relative, n_trajs, n_frames, scatter, n_timescales=4):
    """Kinetics of one source: `speed` divides all times, `memory` bends the timescales down at short lags."""
    lags = np.unique(np.geomspace(1, 600, 12).astype(int))
    exact = 1200.0 / 3.0 ** np.arange(n_timescales) / speed
    settle = 1 - memory * np.exp(-lags[:, None] / (25 + 0.05 * exact[None, :]))
    timescales = interval(exact[None, :] * settle, relative * (1 + 0.6 * np.arange(n_timescales)), rng, scatter * 0.3)
    weights = np.array([0.42, 0.27, 0.19, 0.12])[:n_macro] if n_macro <= 4 else np.linspace(2, 0.4, n_macro)
    weights = weights / weights.sum()
    micro_rng = np.random.default_rng(1)
    parent = np.sort(micro_rng.integers(0, n_macro, n_states))
    raw = micro_rng.lognormal(0, 1.6, n_states)
    micro = np.array([raw[s] / raw[parent == parent[s]].sum() * weights[parent[s]] for s in range(n_states)])
    micro_width = np.clip(relative * 0.4 / np.sqrt(micro * 50), 0.02, 2)
    distance = np.abs(np.subtract.outer(np.arange(n_macro), np.arange(n_macro)))
    mfpt = 260.0 * (1.7**distance) / weights[None, :] ** 0.8 / speed
    np.fill_diagonal(mfpt, np.nan)
    events = np.where(np.isnan(mfpt), 0, n_trajs * n_frames / np.nan_to_num(mfpt, nan=np.inf) * 0.7).astype(np.int64)
    stay = 300.0 * weights / weights.mean() / speed
    times = np.unique(np.geomspace(1, 4000, 60).astype(int))
    fast = 0.25 * np.exp(-times / 6.0)
    survival = fast + 0.75 * np.exp(-times[None, :] / stay[:, None])
    n_visits = (n_trajs * n_frames * weights / stay).astype(np.int64)
    ck_lags = np.array([50, 100, 200, 300, 400, 600])
    relax = np.exp(-ck_lags[:, None] / (700.0 * (0.6 + weights[None, :]) / speed))
    estimated = weights + (1 - weights) * relax
    predicted = weights + (1 - weights) * relax ** (1 + 0.35 * memory * (1 - 50 / ck_lags[:, None]))
    path_times = np.unique(np.geomspace(1, 400, 30).astype(int))
    path_mean = np.where(distance == 1, 1.0, 30.0 * distance) / speed ** (distance > 1)
    np.fill_diagonal(path_mean, np.nan)
    computed = name == "MSM"
    return SourceKinetics(
        name=name, n_trajs=n_trajs, n_frames=n_frames * n_trajs,
        populations=Interval(*(np.asarray(p) for p in (
            micro * np.exp(rng.normal(size=n_states) * micro_width * scatter * 0.5),
            micro * np.exp(-micro_width), micro * np.exp(micro_width)))),
        macro_populations=interval(weights, relative * 0.5, rng, scatter * 0.4),
        lagtimes=lags, timescales=timescales, mfpt=interval(mfpt, relative, rng, scatter * 0.5),
        mfpt_events=events, residence=interval(stay, relative * 0.7, rng, scatter * 0.4), residence_events=n_visits,
        residence_times=times, residence_survival=survival, ck_lagtimes=ck_lags,
        ck_estimated=interval(np.minimum(estimated, 1), relative * 0.15, rng, scatter * 0.3), ck_predicted=predicted,
        unseen_fraction=float("nan") if name == "MD" else 0.0007 * speed,
        timescale_overlap=np.full(n_timescales, 0.97), timescale_events=np.full(n_timescales, 0 if computed else 400),
        path_mean=interval(path_mean, relative), path_events=events * (not computed), path_times=path_times,
        path_longer=np.exp(-np.maximum(path_times - 1, 0) / path_mean[..., None]),
        path_resolution=100 if computed else 1,
    )  # fmt: skip


def row(quantity, unit, values, pick, judge=True):
    """One row of the verdict: `pick` takes the interval out of a source; a cell passes when intervals overlap."""
    reference = next(iter(values))
    cells = {}
    for name, kinetics in values.items():
        part, n_events = pick(kinetics)
        cells[name] = Cell(float(part.value), float(part.low), float(part.high), n_events)
    base = cells[reference]
    for name, cell in cells.items():
        if name != reference and judge:
            passed = cell.low <= base.high and base.low <= cell.high
            cells[name] = Cell(cell.value, cell.low, cell.high, cell.n_events, passed)
    return VerdictRow(quantity, unit, cells)


def make_result(
    *,
    names=("folded", "intermediate", "register-shifted", "unfolded"),
    n_states=100,
    unit="0.2 ns",
    seed=3,
    extra=True,
    n_timescales=4,
):
    """Build a result with the sources MD, GPT, MSM and, with `extra`, LSTM and held-out MD."""
    rng = np.random.default_rng(seed)
    shape = {"n_states": n_states, "n_macro": len(names), "n_timescales": n_timescales}
    sources = {
        "MD": source("MD", rng, speed=1, memory=0.55, relative=0.22, n_trajs=20, n_frames=10_000, scatter=0.5, **shape),
        "GPT": source(
            "GPT", rng, speed=1.05, memory=0.5, relative=0.06, n_trajs=64, n_frames=50_000, scatter=1, **shape
        ),
        "MSM": source("MSM", rng, speed=2.6, memory=0.0, relative=0.1, n_trajs=64, n_frames=50_000, scatter=1, **shape),
    }
    if extra:
        sources["LSTM"] = source(
            "LSTM", rng, speed=1.5, memory=0.4, relative=0.08, n_trajs=64, n_frames=50_000, scatter=2, **shape
        )
        sources["MD held out"] = source(
            "MD held out", rng, speed=0.97, memory=0.55, relative=0.3, n_trajs=10, n_frames=10_000, scatter=0.7, **shape
        )
    rows = [
        row(f"population of {name}", "", sources, lambda s, i=i: (s.macro_populations[i], None))
        for i, name in enumerate(names)
    ]
    rows += [
        row(f"timescale {k + 1} at lag 100", "frames", sources, lambda s, k=k: (s.timescales[-4, k], None))
        for k in range(min(2, n_timescales))
    ]
    if len(names) > 1:
        rows += [
            row(f"MFPT {names[0]} → {names[-1]}", "frames", sources,
                lambda s: (s.mfpt[0, -1], int(s.mfpt_events[0, -1]))),
            row(f"MFPT {names[-1]} → {names[0]}", "frames", sources,
                lambda s: (s.mfpt[-1, 0], int(s.mfpt_events[-1, 0]))),
        ]  # fmt: skip
    rows += [
        row(f"residence in {names[0]}", "frames", sources, lambda s: (s.residence[0], int(s.residence_events[0]))),
        row("unseen transitions per step", "", sources,
            lambda s: (Interval(*(np.asarray(s.unseen_fraction * f) for f in (1, 0.95, 1.05))), None), judge=False),
    ]  # fmt: skip
    return ValidationResult(
        reference="MD",
        frame_interval=FrameInterval.parse(unit),
        lagtime=100,
        macrostate_of_state=np.sort(np.arange(n_states) % len(names)),
        macrostate_names=list(names),
        sources=sources,
        rows=rows,
        chain_length_over_slowest={name: s.n_frames / s.n_trajs / 1200.0 for name, s in sources.items()},
        warnings=["timescale 4 is shorter than the lag time beyond 44 frames",
                  "3 microstates are visited fewer than 10 times in the MD"],
        processes=[f"state {3 * k} ({k + 1} %) against the rest" for k in range(n_timescales)],
        mfpt_errors={n: mfpt_error(sources["MD"].mfpt, s.mfpt) for n, s in sources.items() if n != "MD"},
    )  # fmt: skip


def make_metrics(n=400):
    """Build a training history: noisy training loss at every fifth step, validation at every fiftieth."""
    rng = np.random.default_rng(0)
    rows = []
    for step in range(0, n * 5, 5):
        loss = 0.70 + 2.6 * np.exp(-step / 60) + 0.15 * np.exp(-step / 500)
        line = {
            "step": step,
            "train_loss": float(loss + rng.normal() * 0.02),
            "learning_rate": float(1e-3 * min(1, step / 100) * 0.5 * (1 + np.cos(np.pi * step / (5 * n)))),
        }
        if step % 50 == 0 and step:
            line["validation_loss"] = float(loss + 0.02 + 2e-8 * step**2)
        rows.append(line)
    return rows


def make_landscape(result, n=40_000, seed=0):
    """Frames of a two-dimensional landscape with their microstates, as (xy, states)."""
    rng = np.random.default_rng(seed)
    n_states = len(result.macrostate_of_state)
    population = result.sources["MD"].populations.value
    states = rng.choice(n_states, size=n, p=population / population.sum())
    centres = np.array([[0, 0], [2.2, 1], [-1.5, 2.2], [1, -2]])[result.macrostate_of_state % 4]
    centres = centres + np.random.default_rng(5).normal(scale=0.45, size=(n_states, 2))
    return {"xy": centres[states] + rng.normal(scale=0.18, size=(n, 2)), "states": states, "labels": ("IC 1", "IC 2")}
