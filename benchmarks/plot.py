"""Pictures of docs/benchmarks.md from JSON records: ``python benchmarks/plot.py benchmarks/results/*.json``.

- ``bench_batch.png``: tokens/s against the number of trajectories, beside the floor.
- ``bench_window.png``: tokens/s against the window, beside the floor.
- ``bench_peers.png``: our engine and its peers on the same model, in the same run.
- ``bench_long.png``: cost per token along a long rollout.

A picture is drawn if some record has what it needs. ``--table`` prints Markdown instead.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from nanomd.base.errors import InputError
from nanomd.bench import read_record

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
# One colour for each engine, in all pictures (safe for colour-blind readers); the floor is a grey line.
COLOURS = {
    "nanomd": "#0072B2",
    "CTranslate2": "#D55E00",
    "ONNX Runtime": "#009E73",
    "Hugging Face": "#CC79A7",
    "eager": "#E69F00",
}
FLOOR = "#555555"
LINES = {"fp16-cache": (0, (5, 1)), "fp16": (0, (1, 1))}  # the others: solid
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def rollout_cases(records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in records:
        yield from record["results"].get("rollout", {}).get("cases", [])


def engine_of(name: str) -> str:
    return next((engine for engine in COLOURS if name.startswith(engine)), name)


def label_of(name: str) -> str:
    return "eager PyTorch, no cache" if name == "eager" else name


def bar_label(name: str) -> str:
    precision = next((p for p in LINES if name.endswith(p)), "")
    return f"{engine_of(name)} {precision}".strip()


def where(records: Sequence[dict[str, Any]]) -> str:
    facts = [record["environment"] for record in records]
    load = max((each.get("load_average_before") or each["load_average"])[0] for each in facts)
    busy = f"; busy machine (load {load:.1f}): compare ratios only" if load > 0.5 else ""
    machines = " / ".join(sorted({each["cpu"] for each in facts}))
    return f"{machines}, {max(each['date'] for each in facts)[:10]}{busy}"


def curves(ax: Any, cases: Sequence[dict[str, Any]], x_of: Any, floor: bool = True) -> None:
    """Draw median and range of every engine against x_of(case), and the floor."""
    cases = sorted(cases, key=x_of)
    names = list(dict.fromkeys(name for case in cases for name in case["engines"]))
    for name in names:
        points = [(x_of(case), case["engines"][name]) for case in cases if name in case["engines"]]
        x = [point[0] for point in points]
        y = [point[1]["median"] for point in points]
        spread = [[p[1]["median"] - p[1]["low"] for p in points], [p[1]["high"] - p[1]["median"] for p in points]]
        colour = COLOURS.get(engine_of(name), "black")
        style = next((s for precision, s in LINES.items() if name.endswith(precision)), "-")
        ax.errorbar(
            x, y, yerr=spread, marker="o", ms=4, lw=1.5, ls=style, capsize=2, color=colour, label=label_of(name)
        )
    if floor:
        y = [case["floor"]["fp32"]["tokens_per_second"] for case in cases]
        ax.plot([x_of(case) for case in cases], y, "--", lw=1.2, color=FLOOR, label="floor of this machine, fp32")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ticks = sorted({x_of(case) for case in cases})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()


def letter(axes: Sequence[Any]) -> None:
    """Name the panels of a picture a, b, ... where there are several."""
    for name, ax in zip("abcdefghijkl", axes if len(axes) > 1 else (), strict=False):
        ax.annotate(
            name, (0, 1), (-30, 6), xycoords="axes fraction", textcoords="offset points", fontsize=11, fontweight="bold"
        )


def pick_sweep(records: Sequence[dict[str, Any]], x_of: Any, same: Any) -> list[dict[str, Any]]:
    """Return the largest set of cases of one record that differ in x alone."""
    best: list[dict[str, Any]] = []
    for record in records:
        groups: dict[Any, dict[Any, dict[str, Any]]] = {}
        for case in rollout_cases([record]):
            groups.setdefault(same(case), {})[x_of(case)] = case
        best = max([best, *(list(group.values()) for group in groups.values())], key=len)
    return best


def window(case: dict[str, Any]) -> int:
    return int(case["config"]["context_length"])


def n_trajs(case: dict[str, Any]) -> int:
    return int(case["n_trajs"])


def batch_picture(records: Sequence[dict[str, Any]]) -> Figure | None:
    cases = pick_sweep(records, n_trajs, lambda c: (c["model"], c["mode"], window(c), c["n_threads"], c["isa"]))
    if len(cases) < 3:
        return None
    figure = Figure(figsize=(6.4, 3.9), layout="constrained")
    ax = figure.subplots()
    curves(ax, cases, n_trajs)
    first = cases[0]
    ax.set_xlabel("trajectories together")
    ax.set_ylabel("tokens / s")
    ax.set_title(title(first), loc="left", fontsize=10)
    ordered_legend(figure, ax)
    return figure


def ordered_legend(figure: Figure, ax: Any) -> None:
    """Put the legend beside the axes, in the order of the last points from top to bottom."""
    handles, labels = ax.get_legend_handles_labels()

    def height(handle: Any) -> float:
        line = handle if hasattr(handle, "get_ydata") else handle[0]
        return float(line.get_ydata()[-1])

    pairs = sorted(zip(handles, labels, strict=True), key=lambda pair: -height(pair[0]))
    figure.legend([h for h, _ in pairs], [text for _, text in pairs], loc="outside right center")


def window_picture(records: Sequence[dict[str, Any]]) -> Figure | None:
    sweeps = []
    for n in sorted({n_trajs(case) for case in rollout_cases(records)}):
        cases = pick_sweep(
            records,
            window,
            lambda c, n=n: (c["model"], c["mode"], c["n_threads"], c["isa"]) if n_trajs(c) == n else id(c),
        )
        if len(cases) >= 3 and n_trajs(cases[0]) == n:
            sweeps.append(cases)
    if not sweeps:
        return None
    figure = Figure(figsize=(3.1 * len(sweeps) + 2.2, 3.7), layout="constrained")
    axes = figure.subplots(1, len(sweeps), sharey=True, squeeze=False)[0]
    for ax, cases in zip(axes, sweeps, strict=True):
        curves(ax, cases, window)
        ax.set_xlabel("window W (positions)")
        n = n_trajs(cases[0])
        ax.set_title(f"{n} trajector{'y' if n == 1 else 'ies together'}", loc="left", fontsize=10)
    axes[0].set_ylabel("tokens / s")
    letter(axes)
    first = sweeps[0][0]
    figure.suptitle(f"{first['model']} with other windows, {first['mode']}", x=0.01, ha="left", fontsize=10)
    ordered_legend(figure, axes[-1])
    return figure


def title(case: dict[str, Any]) -> str:
    threads = case["n_threads"]
    return f"{case['model']}, {case['mode']}, W = {window(case)}, {threads} thread{'s' if threads > 1 else ''}"


def peers_picture(records: Sequence[dict[str, Any]]) -> Figure | None:
    records = sorted(records, key=lambda record: -len({case["model"] for case in rollout_cases([record])}))
    cases = [case for case in rollout_cases(records) if len(case["engines"]) >= 4 and case["n_threads"] == 1]
    kept: dict[Any, dict[str, Any]] = {}
    for case in cases:
        kept.setdefault((case["model"], case["mode"], case["n_trajs"]), case)
    cases = [c for c in kept.values() if c["model"].startswith("S") and c["n_trajs"] in (1, 64)]
    cases.sort(key=lambda c: (c["mode"] != "ring", c["n_trajs"]))
    if not cases:
        return None
    columns = 2 if len(cases) > 1 else 1
    rows = -(-len(cases) // columns)
    figure = Figure(figsize=(8.6, 0.5 + 2.0 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, case in zip(axes, cases, strict=False):
        engines = sorted(case["engines"].items(), key=lambda item: item[1]["median"])
        y = range(len(engines))
        values = [entry["median"] for _, entry in engines]
        floor = case["floor"]["fp32"]["tokens_per_second"]
        ax.barh(y, values, color=[COLOURS.get(engine_of(name), "black") for name, _ in engines], height=0.66)
        ax.axvline(floor, ls="--", lw=1.2, color=FLOOR)
        ax.set_xscale("log")
        lowest, highest = min(values) / 2, max(floor, *values) * 2
        ax.set_xlim(lowest, highest)
        for at, value in zip(y, values, strict=True):
            inside = math.log(value / lowest) > 0.3 * math.log(highest / lowest)
            ax.annotate(
                f"{value:,.0f}",
                (value, at),
                (-4 if inside else 4, 0),
                textcoords="offset points",
                ha="right" if inside else "left",
                va="center",
                color="white" if inside else "black",
                fontsize=8,
                fontweight="bold" if inside else "normal",
            )
        ax.set_yticks(y, [bar_label(name) for name, _ in engines])
        ax.grid(axis="y", visible=False)
        ax.minorticks_off()
        n = case["n_trajs"]
        ax.set_title(f"{title(case)}, {n} trajector{'y' if n == 1 else 'ies'}", loc="left", fontsize=9)
    letter(axes[: len(cases)])
    for ax in axes[len(cases) :]:
        ax.set_axis_off()
    for ax in axes[max(0, len(cases) - columns) : len(cases)]:
        ax.set_xlabel("tokens / s")
    figure.suptitle("Every window full. Dashed: floor of this machine in fp32", x=0.01, ha="left", fontsize=10)
    return figure


def long_picture(records: Sequence[dict[str, Any]]) -> Figure | None:
    results = [record["results"]["flatness"] for record in records if "flatness" in record["results"]]
    if not results:
        return None
    figure = Figure(figsize=(5.4, 3.0), layout="constrained")
    ax = figure.subplots()
    for result in results:
        y = [1e6 * cost / result["n_trajs"] for cost in result["seconds_per_step"]]
        label = f"{result['model']}, {result['mode']}, {result['n_trajs']} trajectories"
        ax.plot(result["steps"], y, "o-", ms=4, lw=1.5, color=COLOURS["nanomd"], label=label)
    ax.set_xscale("log")
    ax.set_ylim(0, 1.35 * ax.get_ylim()[1])
    ax.minorticks_off()
    ax.set_xlabel("step")
    ax.set_ylabel("microseconds per token")
    ax.legend(loc="upper left")
    return figure


def markdown(records: Sequence[dict[str, Any]]) -> str:
    """Return the rollout speeds as Markdown tables, one for each case."""
    blocks = []
    for case in rollout_cases(records):
        floor = case["floor"]["fp32"]
        n = n_trajs(case)
        rows = [
            f"**{title(case)}, {n} trajector{'y' if n == 1 else 'ies'}, {case['isa']}**; "
            f"floor {floor['tokens_per_second']:,.0f} tokens/s ({floor['bound']})",
            "",
            "| engine | tokens/s | lowest .. highest | of the floor | ours / this | largest error of ln p |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        ours = next(iter(case["engines"].values()))["median"]
        for name, entry in case["engines"].items():
            cells = [
                label_of(name),
                f"{entry['median']:,.0f}",
                f"{entry['low']:,.0f} .. {entry['high']:,.0f}",
                f"{entry['fraction_of_floor']:.2g}",
                f"{ours / entry['median']:.3g}",
                f"{entry['max_log_prob_error']:.0e}",
            ]
            rows.append(f"| {' | '.join(cells)} |")
        blocks.append("\n".join(rows))
    return "\n\n".join(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="+", type=Path, help="JSON records of nanomd bench")
    parser.add_argument("--out", type=Path, default=PICTURES, help="folder of the pictures (default: docs/pictures)")
    parser.add_argument("--table", action="store_true", help="print a Markdown table, draw nothing")
    options = parser.parse_args()
    records = []
    for path in options.records:
        try:
            records.append(read_record(path))
        except InputError as error:  # the folder also holds what was counted and not timed
            print(f"left out: {error}", file=sys.stderr)
    if not records:
        parser.error("none of the files is a record of times")
    if options.table:
        print(markdown(records))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = {"batch": batch_picture, "window": window_picture, "peers": peers_picture, "long": long_picture}
    with mpl.rc_context(STYLE):
        for name, draw in pictures.items():
            figure = draw(records)
            if figure is None:
                print(f"bench_{name}.png: no record has what it needs")
                continue
            figure.text(0.002, 0.002, where(records), fontsize=6, color="#777777", va="bottom")
            figure.get_layout_engine().set(rect=(0, 0.035, 1, 0.965))
            path = options.out / f"bench_{name}.png"
            figure.savefig(path, dpi=130)
            print(path)


if __name__ == "__main__":
    main()
