"""Runs all checks on one Linen module and reports them: `runner.check(model, x)`."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

from runner.checks import registry
from runner.errors import nearest
from runner.records.check_text import failure_lines, fix_lines, shown, wrapped
from runner.records.record import Check, Verdict

# Readable on white and on black: a notebook may be either, and we can't detect which.
COLORS = {
    Verdict.passed: "#1a8f5f",
    Verdict.warn: "#b07200",
    Verdict.fail: "#d9480f",
    Verdict.skipped: "#7a828e",
}


class CheckFailures(AssertionError):
    """Raised when checks fail or can't be made; the message has the evidence and the fix for each.

    Attributes:
      report: The whole report.
    """

    def __init__(self, report: CheckReport) -> None:
        self.report = report
        super().__init__(report)

    def __str__(self) -> str:
        failed, untested = self.report.failed, self.report.untested
        more = f", {len(untested)} could not be made" if untested else ""
        head = f"{len(failed)} of {_counted(len(self.report))} failed{more}: {self.report.label}"
        return "\n".join([head, *(line for check in [*failed, *untested] for line in ["", *failure_lines(check)])])


class CheckReport(Sequence[Check]):
    """The result of every check on one Linen module: a sequence of `Check`, indexed by position or name.

    Its truth value is `ok`, so that `assert runner.check(model, x)` fails if a check does.

    Args:
      label: The module's name in the report.
      checks: The checks, in display order.
    """

    def __init__(self, label: str, checks: Iterable[Check]) -> None:
        self.label = label
        self._checks = tuple(checks)

    @property
    def ok(self) -> bool:
        """Whether no check failed and each could be made; a test may also want `warned` to be empty."""
        return not self.failed and not self.untested

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return self._with(Verdict.fail)

    @property
    def warned(self) -> list[Check]:
        """The checks that hold only within the limits named in their details."""
        return self._with(Verdict.warn)

    @property
    def untested(self) -> list[Check]:
        """Those of `warned` that could not be made; their details say why."""
        return [check for check in self._checks if check.untested]

    def raise_for_failures(self) -> None:
        """Raises if any check failed or could not be made: the last line of a test.

        Raises:
          CheckFailures: An `AssertionError` with the evidence and the fix for each of them.
        """
        __tracebackhide__ = True  # pytest shows the test's own line
        if not self.ok:
            raise CheckFailures(self)

    def __bool__(self) -> bool:
        return self.ok

    def __len__(self) -> int:
        return len(self._checks)

    @overload
    def __getitem__(self, which: int | str) -> Check: ...

    @overload
    def __getitem__(self, which: slice) -> Sequence[Check]: ...

    def __getitem__(self, which: int | str | slice) -> Check | Sequence[Check]:
        if not isinstance(which, str):
            return self._checks[which]
        for check in self._checks:
            if check.name == which:
                return check
        names = [check.name for check in self._checks]
        close = nearest(which, names)
        hint = f"; did you mean {close!r}?" if close else ""
        raise KeyError(f"no check {which!r} in this report of {', '.join(names)}{hint}")

    def __repr__(self) -> str:
        lines = [self._head()]
        name_width = max((len(check.name) for check in self), default=0)
        verdict_width = max((len(check.verdict) for check in self), default=0)
        for check in self:
            left = f"  {check.name:<{name_width}}  {check.verdict:<{verdict_width}}  "
            lines += wrapped(check.detail, left)
            lines += fix_lines(check, "      ")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = "".join(_html_row(check) for check in self)
        head = "".join(f'<th style="text-align:left">{name}</th>' for name in ("check", "verdict", "detail"))
        caption = f'<caption style="text-align:left">{html.escape(self._head())}</caption>'
        return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def _head(self) -> str:
        counts = Counter(check.verdict for check in self)
        said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in Verdict if counts[verdict])
        return f"{self.label}: {_counted(len(self))}" + (f" ({said})" if said else "")

    def _with(self, verdict: Verdict) -> list[Check]:
        return [check for check in self._checks if check.verdict is verdict]


def check(
    model: Any,
    x: Any,
    *,
    variables: Any = None,
    rngs: Iterable[str] | str | None = None,
    init_rngs: Iterable[str] | str | None = None,
    mutable: Iterable[str] | str | bool | None = None,
    call: Mapping[str, Any] | None = None,
    trained: Iterable[str] | str | None = None,
    only: Sequence[str] | str | None = None,
    label: str | None = None,
    again: Callable[[], Any] | None = None,
    rules: Any = None,
    pipeline: str | None = None,
    wrapper: Any = None,
    metadata_fn: Any = "default",
) -> CheckReport:
    """Reports whether a Linen module is safe in a pipeline: every check, with its evidence and fix.

    Compiles and runs everything on JAX's default device, which takes seconds for a small layer. Pass what your pipeline
    passes, since exactly that is checked.

        runner.check(bridge.to_linen(nnx.BatchNorm, 8), jnp.ones((2, 8))).raise_for_failures()

    Args:
      model: A `flax.linen.Module` that is called as `model.apply(variables, x)`: a wrapped layer, or a host around one.
      x: Input, an array of the pipeline's shape and dtype: [batch, …, features].
      variables: The variable dict passed to apply, `{"params": …}`, arrays or `jax.ShapeDtypeStruct`; None for
        init's own.
      rngs: Names of the rng streams passed to apply, `"dropout"` or `["dropout", "noise"]`; None for all it needs.
      init_rngs: Names of the rng streams passed to init; None for all it needs.
      mutable: Collections that apply may change, in any form flax accepts; None for all that it changes.
      call: Keyword arguments of every call, `{"deterministic": True}`.
      trained: Collections that the optimiser gets, `"all"` for all that init returns; None for params.
      only: Names of the checks to run, `["parity", "lifts"]`; None for all.
      label: The module's name in the report; by default its class name.
      again: Builds the module a second time, like a script that creates it for every call.
      rules: What the pipeline does by path, for the check `rules`: partition rules as a sequence of (regex,
        PartitionSpec), a file, or the dotted name of a function that returns them; or a dict of `partition`,
        `weight_decay`, `freeze` (each the same, or a function from params to a tree of booleans) and `match`
        (`search`, `fullmatch` or `override`).
      pipeline: Name of a preset in conf/pipeline, `"brax"`: how that calls a layer, where nothing else is given.
      wrapper: Class or function, or its dotted path, that wraps the layer in place of the one in `model`.
      metadata_fn: What boxes the variables: a function of the `nnx.Variable`, None or `"none"` for bare arrays,
        `"logical"`; `"default"` keeps what the wrapper does.

    Returns:
      A `CheckReport`: `.ok`, `.failed`, `.warned`, `.untested`, `report["streams"]`, `.raise_for_failures()`.
      Times in the evidence end with `_s` and are in seconds, sizes with `_bytes`.

    Raises:
      LayerError: The module rejects its arguments or the input, for a reason that no check knows.
      UserError: An argument is not a module, an array or a variable dict, or `only` has an unknown name;
        or there is no such pipeline, or no such wrapper.
    """
    checks = registry.check_model(
        model,
        x,
        only=only,
        variables=variables,
        rngs=rngs,
        init_rngs=init_rngs,
        mutable=mutable,
        call=call,
        trained=trained,
        label=label,
        again=again,
        rules=rules,
        pipeline=pipeline,
        wrapped_by=wrapper,
        metadata_fn=metadata_fn,
    )
    return CheckReport(label or _class_name(model), checks)


def _class_name(model: Any) -> str:
    wrapped = getattr(model, "nnx_class", type(model))
    return getattr(wrapped, "__name__", type(model).__name__)


def _counted(number: int) -> str:
    return f"{number} check" + ("" if number == 1 else "s")


def _html_row(check: Check) -> str:
    verdict = f'<b style="color:{COLORS[check.verdict]}">{html.escape(check.verdict)}</b>'
    detail = html.escape(check.detail)
    if check.fix:
        detail += f'<pre style="margin:4px 0;white-space:pre-wrap">{html.escape(check.fix)}</pre>'
    if check.evidence:
        lines = "\n".join(f"{name} = {shown(value)}" for name, value in check.evidence.items())
        evidence = f'<pre style="white-space:pre-wrap">{html.escape(lines)}</pre>'
        detail += f"<details><summary>evidence</summary>{evidence}</details>"
    cells = (html.escape(check.name), verdict, detail)
    return "<tr>" + "".join(f'<td style="text-align:left;vertical-align:top">{cell}</td>' for cell in cells) + "</tr>"
