"""Of what form the plan of a sweep is: what its readers rely on, checked once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PLAN = {"sweep": str, "written_at": str, "origin": dict, "num_configs": int, "runs": list}
RUN = {
    **{"num": int, "run_id": str, "result_id": str, "program_id": str},
    **{"layer": str, "overrides": list, "settings": dict},
}
KINDS = list(RUN.values())
SETTINGS = {"device": str}  # a seed out of the environment is kept as its name
STUDY = {"objective": str, "direction": str, "n_trials": int}


def fault(plan: Mapping[str, Any]) -> str | None:
    """What of a plan is of another form than ours, by its key; None if all is well."""
    found = _fault(plan, PLAN, "")
    if found is None and "study" in plan:
        found = _fault(plan["study"], STUDY, "study")
    if found is not None:
        return found
    for num, run in enumerate(plan["runs"]):
        if _is_usual(run):
            continue
        name = f"runs[{num}]"
        found = _fault(run, RUN, name) or _fault(run["settings"], SETTINGS, f"{name}.settings")
        if found is None and not isinstance(run["settings"].get("mesh", {}), dict):
            found = f"{name}.settings.mesh is no dict"
        if found is None and not are_words(run["overrides"]):
            found = f"{name}.overrides is no list of words"
        if found is not None:
            return found
    return None


def _is_usual(run: Any) -> bool:
    """Whether a run is of our form, in a third of the time that it takes to say what is not."""
    if type(run) is not dict or [*map(type, map(run.get, RUN))] != KINDS:
        return False
    settings = run["settings"]
    return type(settings.get("device")) is str and type(settings.get("mesh")) is dict and are_words(run["overrides"])


def are_words(data: Any) -> bool:
    """Whether data that somebody else may have written is a list of words, as of a command."""
    return isinstance(data, list) and set(map(type, data)) <= {str}


def _fault(data: Any, wanted: Mapping[str, type], name: str) -> str | None:
    if not isinstance(data, dict):
        return f"{name} is no object"
    for key, kind in wanted.items():
        if type(data.get(key)) is not kind:  # a bool is no number
            return f"{name}.{key}".lstrip(".") + (f" is no {kind.__name__}" if key in data else " is missing")
    return None
