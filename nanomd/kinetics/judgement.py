"""From measured sources to the result of a validation: mean factors, noise floor, table, verdicts and warnings."""

from __future__ import annotations

from nanomd.kinetics import macrostates, processes
from nanomd.kinetics.estimates import Sample
from nanomd.kinetics.lags import Lags
from nanomd.kinetics.notes import verdict_notes
from nanomd.kinetics.passages import PassageTable
from nanomd.kinetics.prepare import REFERENCE, TRAINING, Inputs
from nanomd.kinetics.results import SourceKinetics, ValidationResult
from nanomd.kinetics.rows import quantities
from nanomd.kinetics.sources import Measured
from nanomd.kinetics.verdict import Judge
from nanomd.kinetics.yardstick import Yardstick


def judge(
    inputs: Inputs,
    lags: Lags,
    yardstick: Yardstick,
    samples: dict[str, Sample],
    measured: dict[str, Measured],
    confidence: float,
) -> ValidationResult:
    """Compare every source with the reference and the training data.

    Parameters
    ----------
    inputs, lags, yardstick :
        What was handed in, and what it is measured with.
    samples : dict of Sample
        The trajectories of the sources that have any.
    measured : dict of Measured
        All sources, the reference first.
    confidence : float
    """
    sources = {name: found.kinetics for name, found in measured.items()}
    reference, training = sources[REFERENCE], TRAINING if inputs.learnt_from == TRAINING else None
    names = macrostates.macrostate_names(yardstick.n_macrostates, reference.macro_populations.value, inputs.names)
    tables = {
        name: PassageTable.of(found, samples.get(name), yardstick, lags.slowest) for name, found in measured.items()
    }
    errors = {
        name: {
            base: tables[base].error_of(table, confidence)
            for base in (REFERENCE, training)
            if base is not None and base != name
        }
        for name, table in tables.items()
        if name != REFERENCE
    }
    floor = errors[TRAINING][REFERENCE] if training is not None else None
    lengths = {name: s.n_frames / s.n_trajs / lags.slowest for name, s in sources.items() if s.n_trajs > 0}
    judged = Judge(sources, training, lengths, errors, floor, lags.slowest, confidence)
    rows, verdicts = judged.rows(quantities(sources, yardstick, names, inputs.interval), inputs.interval.unit)
    described = (
        []
        if yardstick.ends is None
        else [
            processes.describe_process(ends, yardstick.stationary, [str(label) for label in inputs.symbols])
            for ends in yardstick.ends
        ]
    )
    return ValidationResult(
        reference=REFERENCE,
        frame_interval=inputs.interval,
        lagtime=lags.lagtime,
        macrostate_of_state=yardstick.macrostate,
        macrostate_names=names,
        sources=sources,
        rows=rows,
        chain_length_over_slowest=lengths,
        confidence=confidence,
        warnings=inputs.notes + verdict_notes(sources, training, lags, yardstick, inputs.symbols, names, described),
        core_of_state=yardstick.cores,
        processes=described,
        mfpt_errors={name: by_base[REFERENCE] for name, by_base in errors.items()},
        noise_floor=floor,
        verdicts=verdicts,
        margin=judged.margin,
        judged_by=_judged_by(reference, None if training is None else sources[training]),
        state_symbols=inputs.symbols,
    )


def _judged_by(reference: SourceKinetics, training: SourceKinetics | None) -> str:
    many = "a trajectory" if reference.n_trajs == 1 else f"{reference.n_trajs} trajectories"
    much = f"{reference.n_frames:,} frames in {many}"
    if training is None:
        return f"{much}, also the training data: this shows how well they were learnt, not how true they are"
    return f"{much}, apart from the {training.n_frames:,} frames of training data"
