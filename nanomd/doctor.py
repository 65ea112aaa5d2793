"""What this installation can do on this machine, and why: the facts behind `nanomd doctor`."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

from nanomd.base.backends import BACKENDS, VARIABLE

_REQUIRED = ("numpy", "safetensors", "msgspec", "tomli-w", "tqdm")
_OPTIONAL = {
    "torch": "train",
    "triton": "train, fused kernels on GPUs",
    "mdtraj": "md, reading molecular dynamics",
    "deeptime": "md, Markov models",
    "scipy": "md",
    "scikit-learn": "md, clustering",
    "matplotlib": "report",
    "jinja2": "report",
    "pandas": "notebook",
    "xarray": "notebook",
    "nvtx": "profile, ranges for NVIDIA profilers",
    "openmm": "openmm, simulations",
    "ray": "ray, rollouts over many machines",
    "transformers": "peers, benchmarks",
    "ctranslate2": "peers, benchmarks",
    "onnxruntime": "peers, benchmarks",
}


def examine(run: str | Path | None = None) -> dict[str, Any]:
    """Return the facts as plain values.

    Parameters
    ----------
    run : path, optional
        A run folder whose finished steps are listed and checked as well: every result is read, every digest computed.
    """
    from nanomd import __version__
    from nanomd._native import cuda_info, instruction_set
    from nanomd.base.environment import cpu_model, source_commit
    from nanomd.rollout.self_check import objection

    facts: dict[str, Any] = {
        "nanomd": {"version": __version__, "commit": source_commit(), "path": str(Path(__file__).parent)},
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "packages": {name: _version(name) for name in _REQUIRED},
        "optional": {name: {"version": _version(name), "for": use} for name, use in _OPTIONAL.items()},
        "cpu": {
            "model": cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "instruction_set": instruction_set(),
            "threads": {k: os.environ[k] for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if k in os.environ},
        },
        "cuda": {**cuda_info(), "objection": objection()},  # what keeps auto from it
        "torch": _torch(),
    }
    facts["backends"] = backends(facts)
    if run is not None:
        from nanomd.study.check import check_run
        from nanomd.study.folder import RunFolder

        stages = RunFolder(run, create=False).provenance().stages
        facts["run"] = {
            name: {k: stages.get(name, {}).get(k) for k in ("finished", "seconds", "backend")} | {"problems": problems}
            for name, problems in check_run(run).items()
        }
    return facts


def backends(facts: dict[str, Any]) -> dict[str, dict[str, str]]:
    """Return which backends `auto` resolves to, and why."""
    override = os.environ.get(VARIABLE, "")
    override = override if override in BACKENDS["rollouts"] else ""
    forced = f"{VARIABLE}={override}" if override else ""
    cuda, torch = facts["cuda"], facts["torch"]
    isa = facts["cpu"]["instruction_set"]
    if override not in ("", "auto"):
        rollout = {"use": override, "why": forced}
    elif cuda["objection"]:
        rollout = {"use": "cpu", "why": f"compiled engine, {isa}; cuda: {cuda['objection']}"}
    else:
        rollout = {"use": "cuda", "why": "its self-check agrees with the CPU engine"}
    if torch.get("error"):
        training = {"use": "none", "why": torch["error"]}
    elif torch["cuda"]:
        training = {"use": "cuda", "why": f"torch sees {torch['device']}"}
    else:
        training = {"use": "cpu", "why": f"torch: {torch['reason']}"}
    return {"rollout": rollout, "training": training}


def _torch() -> dict[str, Any]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return {"error": f"torch cannot be imported: {error}"}
    available = torch.cuda.is_available()
    built = torch.version.cuda
    reason = "" if available else ("no CUDA device or driver" if built else "this build of torch has no CUDA")
    return {
        "version": torch.__version__,
        "cuda_build": built,
        "cuda": available,
        "device": torch.cuda.get_device_name(0) if available else "cpu",
        "reason": reason,
        "threads": torch.get_num_threads(),
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None if util.find_spec(name.replace("-", "_")) is None else "unknown version"


def describe(facts: dict[str, Any]) -> str:
    """Return the facts as text."""
    cpu, cuda, torch = facts["cpu"], facts["cuda"], facts["torch"]
    source = f", commit {facts['nanomd']['commit']}" if facts["nanomd"]["commit"] else ""
    devices = ", ".join(str(d["name"]) for d in cuda["devices"])
    rows = [
        ("nanomd", f"{facts['nanomd']['version']}{source}, {facts['nanomd']['path']}"),
        ("python", f"{facts['python']['version']}, {facts['python']['executable']}"),
        ("packages", ", ".join(f"{name} {version or 'MISSING'}" for name, version in facts["packages"].items())),
        ("processor", f"{cpu['model']}, {cpu['cores']} cores, instruction set {cpu['instruction_set']}"),
        ("threads", ", ".join(f"{k}={v}" for k, v in cpu["threads"].items()) or "not limited by the environment"),
        (
            "CUDA engine",
            f"{'built' if cuda['built'] else 'not built'}; {devices or 'no device'}" + _why(cuda["reason"]),
        ),
    ]
    if "error" in torch:
        rows.append(("torch", torch["error"]))
    else:
        rows.append(
            (
                "torch",
                f"{torch['version']}, device {torch['device']}{_why(torch['reason'])}, {torch['threads']} threads",
            )
        )
    for name, fact in facts["optional"].items():
        rows.append((name, f"{fact['version'] or 'absent'} (extra {fact['for']})"))
    for name, fact in facts["backends"].items():
        rows.append((f"{name} uses", f"{fact['use']} ({fact['why']})"))
    for name, fact in facts.get("run", {}).items():
        done = f"finished {fact['finished']} in {fact['seconds']} s" if fact["finished"] else "not finished"
        rows.append((f"run: {name}", "; ".join([done, *(fact["problems"] or ["whole"])])))
    return "\n".join(f"{name:<14} {text}" for name, text in rows)


def _why(reason: str) -> str:
    return f" ({reason})" if reason else ""
