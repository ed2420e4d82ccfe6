"""`bridge-runner verify`: is a run still intact? From its folder alone: no network, no other run, no sweep.

Three questions, each stricter than the last: are the files the ones that were written; do the leaves and the output
match the record; does the rebuilt layer give the recorded output on the restored variables?
"""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from runner.arrays import closeness, devices, trees
from runner.arrays.tree_diff import diff_trees
from runner.bridge import rngs
from runner.commands.migration import tree_mismatch
from runner.config.composing.composed import Config
from runner.config.serialize import ForeignValueError
from runner.config.settings.run import Run
from runner.config.settings.sweep import ProcessSettings
from runner.errors import ConfigError, StorageError, UserError
from runner.experiment import program as programs
from runner.experiment.draft import Draft
from runner.experiment.memory import NoRoomError
from runner.experiment.saved_run import SavedRun
from runner.launch import process
from runner.records import find, paths
from runner.records.disk import removal
from runner.records.paths import RunFolder, SweepFolder
from runner.records.record import Record, Status
from runner.report.terminal import Terminal
from runner.sweep import intact
from runner.timing import machine

EXIT_DIFFERENT = 4

# On another platform, or with other software, bits may differ: a relative error, as a multiple of the dtype's epsilon.
TOLERANCE_EPS = 64

# What accelerators round the factors of float32 products to by default (`jax.lax.Precision.DEFAULT`):
# TF32 and bfloat16. Errors of the factors average out, whereas those of a chain of roundings add up.
PRODUCT_EPS = {"gpu": 2.0**-10, "cuda": 2.0**-10, "rocm": 2.0**-10, "tpu": 2.0**-7}
TOLERANCE_PRODUCT_EPS = 8


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of verifying one run.

    Attributes:
      folder: Its folder.
      wrong: What has changed, one sentence each; empty for a run that verifies.
      detail: What was compared, and how closely it agrees.
      removed: Whether its checkpoint was deliberately not kept, so that there is nothing to apply.
      damaged: Whether files are not what was written, so that `resume --verify` does the run again.
      refused: Why the layer was not applied: the run imports untrusted modules, reads a variable of the environment
        that is not set, or asks for more memory than there is.
    """

    folder: RunFolder
    wrong: list[str] = field(default_factory=list)
    detail: str = ""
    removed: bool = False
    damaged: bool = False
    refused: UserError | None = None


def verify(path: Path, *, trust: bool = False, code: bool = True, device: str | None = None) -> int:
    """Prints whether the run, or every run of the sweep, at `path` is intact.

    Args:
      path: The folder of a run or a sweep.
      trust: Whether modules that are neither ours nor flax's may be imported.
      code: Whether to build and apply the layer; if not, nothing that the record names is imported.
      device: Where to apply it; None for where the run was, or the CPU if that is not available here.

    Returns:
      0 if everything is intact, else 4.

    Raises:
      UserError: It is neither a run nor a sweep, or all is intact but runs that import untrusted modules were not
        applied.
    """
    terminal = Terminal()
    folders, lost = find.find_runs(path)
    if code:
        _prepare_process(folders)
    if device is not None:
        devices.find_device(device)
    verifier = Verifier(trust=trust, code=code, device=device)
    findings = []
    with terminal.progress("verified", len(folders)) as advance:
        for folder in folders:
            finding = verifier.verify(folder)
            findings.append(finding)
            for text in finding.wrong:
                terminal.line(f"{folder.path.name}: {text}")
            if len(folders) == 1 and not finding.wrong and finding.refused is None:
                terminal.line(f"{folder.path.name}: {finding.detail}")
            advance()
    for name in lost:
        terminal.line(f"{name}: the folder is missing")
    refused = [one.refused for one in findings if one.refused is not None]
    different = bool(lost) or any(one.wrong for one in findings)
    if len(folders) > 1 or different or not refused:
        for line in _summary(path, findings, lost, refused):
            terminal.line(line)
    if refused and not different:
        raise refused[0]
    return EXIT_DIFFERENT if different else 0


def _summary(path: Path, findings: Sequence[Finding], lost: Sequence[str], refused: Sequence[UserError]) -> list[str]:
    """How many runs are intact, and what to type next."""
    num_good = sum(not one.wrong for one in findings) - len(refused)
    num_removed = sum(one.removed and not one.wrong for one in findings)
    without = f", {num_removed} of them without a checkpoint (removed by retention)" if num_removed else ""
    lines = [f"{num_good} of {len(findings) + len(lost)} runs verified{without}"]
    if refused:
        lines.append(f"{len(refused)} have the files that were written and were not applied: {refused[0].what}")
    sweeps = [SweepFolder(folder) for folder in (path, path.absolute().parent.parent, path.absolute().parent)]
    sweep = next((one for one in sweeps if one.plan.exists()), None)
    if sweep is not None and (lost or any(one.damaged for one in findings)):
        again = f"bridge-runner resume {shlex.quote(paths.shown(sweep.path))} --verify"
        lines.append(f"what is damaged or missing is done again by `{again}`")
    return lines


class Verifier:
    """Verifies runs one by one; runs of the same program share its compiled apply.

    Args:
      trust: Whether modules that are neither ours nor flax's may be imported.
      code: Whether to build and apply the layer.
      device: Where; None for where the run was, or the CPU if that is not available here.
    """

    def __init__(self, *, trust: bool = False, code: bool = True, device: str | None = None) -> None:
        self._trust = trust
        self._code = code
        self._device = device
        self._compiled: dict[str, tuple[Draft, Any]] = {}

    def verify(self, folder: RunFolder) -> Finding:
        """Verifies the run in `folder`; whatever is wrong with it is in the finding, so that others are verified."""
        try:
            return self._verify(folder)
        except UserError as error:
            return Finding(folder=folder, wrong=[error.what])
        except Exception as error:  # noqa: BLE001 - a foreign record or layer may cause any
            return Finding(folder=folder, wrong=[f"{type(error).__name__}: {error}"])

    def _verify(self, folder: RunFolder) -> Finding:
        if links := intact.linked(folder):
            return Finding(folder=folder, wrong=links, damaged=True)
        saved = SavedRun(folder)
        try:
            record, contents = saved.record, intact.read(saved, placed=self._code)
        except StorageError as error:
            return Finding(folder=folder, wrong=[error.what], damaged=True)
        removed = removal.sentence(record)
        detail = f"{len(record.files) + 1} files as they were written; {removed}" if removed else _written(record)
        finding = Finding(
            folder=folder,
            wrong=contents.wrong,
            detail=detail,
            removed=removed is not None,
            damaged=bool(contents.wrong),
        )
        if contents.wrong or record.status is Status.failed or not self._code or contents.variables is None:
            return finding
        try:
            config = replace(saved.run, device=self._device or saved.run.device)
            saved.require_trust(trust=self._trust)
        except ForeignValueError as error:  # of the record; what the environment lacks is no fault of it
            return replace(finding, wrong=[error.what])
        except UserError as error:
            return replace(finding, refused=error)
        try:
            program = self._program(saved, config)
        except NoRoomError as error:
            return replace(finding, refused=error)
        how, wrong = _compare_applied(saved, program, contents.variables, contents.output)
        return replace(finding, wrong=wrong, detail=f"{detail}; {how}")

    def _program(self, saved: SavedRun, config: Run) -> tuple[Draft, Any]:
        record = saved.record
        # The program's name does not include the device.
        key = f"{record.program_id} {config.device} {record.platform}"
        if key not in self._compiled:
            draft = saved.draft(config)
            # On another platform, at the highest precision: then only the run's own rounding has to be allowed for.
            precision = None if record.platform == draft.device.platform else "highest"
            self._compiled[key] = draft, programs.compile_apply(draft, precision=precision)
        return self._compiled[key]


def _prepare_process(folders: Sequence[RunFolder]) -> None:
    """Splits the CPU as it was for the runs, so that a mesh finds its devices, unless JAX is already initialized."""
    num_cpu_devices = 1
    with contextlib.suppress(Exception):  # a foreign record; it is reported where the run is verified
        run = SavedRun(folders[0]).in_one_process
        num_cpu_devices = min(run.process.num_cpu_devices, devices.MAX_CPU_DEVICES)
    with contextlib.suppress(ConfigError):
        process.prepare_process([Config(run=Run(process=ProcessSettings(num_cpu_devices=num_cpu_devices)))])


def _written(record: Record) -> str:
    return f"{len(record.files) + 1} files and {len(record.variables)} leaves as they were written"


def _compare_applied(
    saved: SavedRun, program: tuple[Draft, Any], variables: Any, kept: Mapping[str, np.ndarray]
) -> tuple[str, list[str]]:
    """How closely the output of the restored variables agrees with the recorded one, and where it does not."""
    draft, apply = program
    record, place = saved.record, draft.placement
    x, key = place.put_x(saved.x), place.put(rngs.root_key(saved.run.seed))
    kept_here = trees.with_keys_of(variables, draft.needs.variables)
    if wrong := tree_mismatch.sentences(diff_trees(kept_here, trees.unbox(draft.needs.variables))):
        return "", [f"the layer is not the one that was saved: {wrong}"]
    output, _ = apply(place.put_variables(kept_here), key, x)
    made = trees.named_arrays(output)
    differing = closeness.differences(kept, made)
    if not differing:
        return "applied again, the output is the same bit for bit", []
    other_device = _other_device(record, draft)
    if other_device and (tolerance := _tolerance(kept, made, record)):
        ulps = max(item["ulp"] for item in differing.values())
        how = f"within {ulps} ulp, and within the tolerance of {tolerance:.2g} of its largest element"
        return f"applied on {other_device}, the output is {how}", []
    where = "" if not other_device else f" on {other_device}"
    source = "; the layer's source is another one than when the run was saved" if _other_source(record, draft) else ""
    return "", [f"applied again{where}, the output differs in {closeness.largest_differences(differing)}{source}"]


def _other_device(record: Record, draft: Draft) -> str | None:
    """What has changed since the run was saved, so that bits may differ."""
    if record.platform != draft.device.platform:
        return f"{draft.device.platform} instead of {record.platform}"
    mesh = draft.placement.info()
    if record.mesh and mesh and mesh.axes != record.mesh.axes:
        return f"1 device instead of {len(record.mesh.devices)}"
    if record.mesh and record.mesh.num_processes > 1:
        return f"1 process instead of {record.mesh.num_processes}"
    now = machine.fingerprint()
    if record.fingerprint.get("software_id") != now["software_id"]:
        return "other software than it was saved with"
    return "another machine" if record.fingerprint.get("machine_id") != now["machine_id"] else None


def _tolerance(kept: Mapping[str, np.ndarray], made: Mapping[str, np.ndarray], record: Record) -> float | None:
    """The allowed relative error, the largest of all arrays; None if one of them exceeds its own."""
    if kept.keys() != made.keys():
        return None
    allowed = {name: _allowed(array, record) for name, array in kept.items()}
    good = all(_within(kept[name], made[name], allowed[name]) for name in kept)
    return max(allowed.values(), default=0.0) if good else None


def _allowed(array: np.ndarray, record: Record) -> float:
    """The allowed relative error of `array`, which was computed on another platform, machine or mesh."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return 0.0
    allowed = TOLERANCE_EPS * float(jnp.finfo(array.dtype).eps)
    asked = (record.fingerprint.get("jax_config") or {}).get("jax_default_matmul_precision")
    if asked is None and record.platform in PRODUCT_EPS:
        allowed = max(allowed, TOLERANCE_PRODUCT_EPS * PRODUCT_EPS[record.platform])
    return allowed


def _within(one: np.ndarray, two: np.ndarray, allowed: float) -> bool:
    if (one.shape, one.dtype) != (two.shape, two.dtype) or not allowed:
        return False
    first, second = trees.as_float64(one), trees.as_float64(two)
    scale = float(np.max(np.abs(first[np.isfinite(first)]), initial=0.0))
    return bool(np.allclose(first, second, rtol=allowed, atol=allowed * scale, equal_nan=True))


def _other_source(record: Record, draft: Draft) -> bool:
    return record.settings.get("variables") is None and record.program_id != draft.program_id
