"""Reads the text of a plan, in which most runs differ in their seed alone: the rest of their settings is read once."""

from __future__ import annotations

from typing import Any

from runner.records.codec import SMALL_BYTES, loads
from runner.records.families import Families

# The settings of a run, as `data_to_json` indents them.
INDENT = 3
START = b'\n   "settings": {'


def loads_plan(text: bytes) -> Any:
    """`codec.loads`, faster for the plan of many runs: they share the values of settings that are the same.

    Raises:
      ValueError: It is no JSON.
    """
    if len(text) >= SMALL_BYTES:
        try:
            return _assembled(text)
        except (ValueError, LookupError, TypeError):  # of another form than ours, or no JSON
            pass
    return loads(text)


def _assembled(text: bytes) -> Any:
    """The plan without the settings of its runs, and these put back.

    That the word in their place is found in each run once says that nothing else was replaced.
    """
    families = Families(INDENT)
    kept, settings, position = [], [], 0
    while (found := text.find(START, position)) >= 0:
        opened = found + len(START) - 1
        kept.append(text[position:opened])
        values, position = families.read(text, opened)
        settings.append(values)
    kept.append(text[position:])
    plan = loads(f'"{families.word}"'.encode().join(kept))
    runs = plan["runs"]
    if len(runs) != len(settings) or any(run["settings"] != families.word for run in runs):
        raise ValueError("it is of another form")
    for run, values in zip(runs, settings, strict=True):
        run["settings"] = values
    return plan
