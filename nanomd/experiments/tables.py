"""Tables of an experiment, from its records: errors of every method beside the noise of the data."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nanomd.base.errors import InputError
from nanomd.experiments.methods import METHODS
from nanomd.experiments.scoring import errors

Row = dict[str, Any]

_COLUMNS = (
    ("nll", "nats/frame", "{:.4f}"),
    ("mfpt_model", "MFPT, model", "{:.3f}"),
    ("worst_model", "worst pair", "{:.2f}"),
    ("mfpt_total", "MFPT, total", "{:.3f}"),
    ("timescales", "timescales", "{:.3f}"),
    ("populations", "populations", "{:.3f}"),
    ("leakage", "leakage per step", "{:.1e}"),
)


def load_records(folder: str | Path) -> tuple[dict[int, Row], list[Row]]:
    """Return references by data set, and the records of all jobs.

    Raises
    ------
    InputError
        If there is none, or a file is damaged.
    """
    references: dict[int, Row] = {}
    records: list[Row] = []
    for path in sorted((Path(folder) / "records").glob("*.json")):
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}); delete it, and run the experiment again") from None
        if path.name.startswith("reference_"):
            references[int(value["dataset"])] = value
        else:
            records.append(value)
    if not references:
        raise InputError(f"{folder} holds no records of an experiment")
    return references, records


def measure(kinetics: Row, reference: Row) -> Row:
    """Return the errors of one source against the training data (model error) and the held-out data (total error)."""
    sources = reference["sources"]
    model, total = errors(kinetics, sources["MD training"]), errors(kinetics, sources["MD held out"])
    return {
        "mfpt_model": model["mfpt_factor"],
        "worst_model": model["mfpt_worst"],
        "mfpt_total": total["mfpt_factor"],
        "worst_total": total["mfpt_worst"],
        "timescales": model["timescale_factor"],
        "slowest_ratio": model["slowest_ratio"],
        "populations": model["population_factor"],
        "leakage": kinetics["leakage"],
    }


def label(record: Row) -> str:
    """Return the name of a record's row: its method, and the number of steps where it is not the case's."""
    return f"{record['method']}, {record['n_steps']} steps" if record["n_steps"] else str(record["method"])


def rows(references: dict[int, Row], records: Iterable[Row], *, pieces: int = 0) -> list[Row]:
    """Return one row for every method, each value a list over data sets and seeds.

    Rows "training MD", "MSM lag ..." and "memory kernel" come from the references. With `pieces`, only
    those trained on such pieces. A number of steps other than the case's is named.
    """
    records = list(records)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(name: str, values: Row) -> None:
        for key, value in values.items():
            if value is not None:
                found[name][key].append(float(value))

    order = {name: place for place, name in enumerate(METHODS)}
    places: dict[str, int] = {}  # of the methods in the table; the data and Markov models come first
    used = {int(record["dataset"]) for record in records if record["pieces"] == pieces}
    for dataset, reference in references.items():
        if used and dataset not in used:  # what no method has learnt from is no measure for them
            continue
        sources = reference["sources"]
        add("training MD", measure(sources["MD training"], reference))
        markov = reference["pieces"].get(str(pieces), {}) if pieces else sources
        for name in (n for n in markov if not n.startswith("MD ")):
            add(name, measure(markov[name], reference))
            if name == "MSM lag 1" and not pieces:
                add(name, {"nll": reference["msm_held_out_nll"]})
    for record in records:
        if record["pieces"] == pieces and record["dataset"] in references:
            values = measure(record["kinetics"], references[record["dataset"]])
            places[label(record)] = order.get(record["method"], len(order))
            add(label(record), {**values, "nll": record["held_out_nll"]})
    return [{"method": name, **found[name]} for name in sorted(found, key=lambda name: places.get(name, -1))]


def markdown(table: Sequence[Row]) -> str:
    """Return a table in Markdown: mean over data sets and seeds, and the range behind it where there are several."""
    head = ["method", "runs", *(title for _, title, _ in _COLUMNS)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in table:
        number = max((len(v) for v in row.values() if isinstance(v, list)), default=0)
        cells = [_cell(row.get(key, []), form) for key, _, form in _COLUMNS]
        lines.append("| " + " | ".join([row["method"], str(number), *cells]) + " |")
    return "\n".join(lines)


def _cell(values: Sequence[float], form: str) -> str:
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return ""
    mean = float(np.exp(np.mean(np.log(known)))) if min(known) > 0 else float(np.mean(known))
    text = form.format(mean)
    return text if len(known) == 1 else f"{text} ({form.format(min(known))} to {form.format(max(known))})"


def best_markov(references: dict[int, Row], pieces: int) -> list[float]:
    """Return, by data set, the MFPT model error of the Markov model of the pieces whose lag makes it smallest.

    That is more than anybody can do who has the pieces alone, and so a bound that favours the Markov model.
    """
    out = []
    for reference in references.values():
        sources = reference["pieces"][str(pieces)].items()
        out.append(min(measure(s, reference)["mfpt_model"] for name, s in sources if name.startswith("MSM")))
    return out
