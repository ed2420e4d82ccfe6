"""All checks of one Linen module as a report: `runner.check(model, x)`."""

from __future__ import annotations

import html
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

from runner.checks import registry
from runner.errors import nearest
from runner.records.record import Check, Verdict

WIDTH = 100

# Readable on white and on black: a notebook may be either, and does not tell.
COLORS = {
    Verdict.passed: "#1a8f5f",
    Verdict.warn: "#b07200",
    Verdict.fail: "#d9480f",
    Verdict.skipped: "#7a828e",
}


class CheckFailures(AssertionError):
    """Checks failed; the message has the evidence and the fix of each.

    Attributes:
      report: The whole report.
    """

    def __init__(self, report: CheckReport) -> None:
        self.report = report
        super().__init__(report)

    def __str__(self) -> str:
        failed = self.report.failed
        head = f"{len(failed)} of {_counted(len(self.report))} failed: {self.report.label}"
        return "\n".join([head, *(line for check in failed for line in _failure_lines(check))])


class CheckReport(Sequence[Check]):
    """What every check says of one Linen module: a sequence of `Check`, by position or by name.

    In a condition it is `ok`, so that `assert runner.check(model, x)` fails where a check does.

    Args:
      label: What the module is called.
      checks: In the order in which they are shown.
    """

    def __init__(self, label: str, checks: Iterable[Check]) -> None:
        self.label = label
        self._checks = tuple(checks)

    @property
    def ok(self) -> bool:
        """Whether no check failed; see `warned` and `skipped` for what else a test may want to be empty."""
        return not self.failed

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return self._with(Verdict.fail)

    @property
    def warned(self) -> list[Check]:
        """The checks that hold within limits that their details name."""
        return self._with(Verdict.warn)

    @property
    def skipped(self) -> list[Check]:
        """The checks that could not be made; their details say why."""
        return self._with(Verdict.skipped)

    def raise_for_failures(self) -> None:
        """Nothing if no check failed: the last line of a test.

        Raises:
          CheckFailures: An `AssertionError` with the evidence and the fix of each check that failed.
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
            lines += _wrapped(check.detail, left)
            lines += _fix_lines(check, "      ")
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
    trained: Iterable[str] | str = ("params",),
    only: Sequence[str] | str | None = None,
    label: str | None = None,
    again: Callable[[], Any] | None = None,
) -> CheckReport:
    """A report of whether a Linen module is safe in a pipeline: ten checks, each with its evidence and fix.

    Everything is compiled and run for it, on JAX's default device: seconds for a small layer. Pass what your pipeline
    passes, for that is what is checked.

        runner.check(bridge.to_linen(nnx.BatchNorm, 8), jnp.ones((2, 8))).raise_for_failures()

    Args:
      model: A `flax.linen.Module` that is called as `model.apply(variables, x)`: a wrapped layer, or a host around one.
      x: Input, an array of the shape and dtype that the pipeline has: [batch, …, features].
      variables: The variable dict given to apply, `{"params": …}`, arrays or `jax.ShapeDtypeStruct`; None for what
        init makes.
      rngs: Names of the rng streams given to apply, `"dropout"` or `["dropout", "noise"]`; None for all it needs.
      init_rngs: Names of the rng streams given to init; None for all it needs.
      mutable: Collections that apply may change, as flax takes them; None for all that it changes.
      call: Keyword arguments of every call, `{"deterministic": True}`.
      trained: Collections that the optimiser gets.
      only: Names of checks to make, `["parity", "lifts"]`; None for all ten.
      label: What the module is called in the report; by default the name of its class.
      again: Builds the module a second time, as a script does that makes it for every call.

    Returns:
      A `CheckReport`: `.ok`, `.failed`, `.warned`, `report["streams"]`, `.raise_for_failures()`. Times in the evidence
      end with `_s` and are in seconds, sizes with `_bytes`.

    Raises:
      LayerError: The module refuses its arguments or the input, for no cause that a check knows.
      UserError: What is given is no module, array or variable dict, or `only` names no check.
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
    )
    return CheckReport(label or _class_name(model), checks)


def _class_name(model: Any) -> str:
    wrapped = getattr(model, "nnx_class", type(model))
    return getattr(wrapped, "__name__", type(model).__name__)


def _counted(number: int) -> str:
    return f"{number} check" + ("" if number == 1 else "s")


def _failure_lines(check: Check) -> list[str]:
    lines = ["", *_wrapped(check.detail, f"{check.name}: ", "  ")]
    lines += [
        f"  evidence  {name} = {textwrap.shorten(_shown(value), 3 * WIDTH, placeholder=' …')}"
        for name, value in check.evidence.items()
    ]
    return lines + _fix_lines(check, "  ")


def _fix_lines(check: Check, indent: str) -> list[str]:
    first, *more = (check.fix or "").splitlines() or [""]
    return [f"{indent}fix  {first}", *(f"{indent}     {line}" for line in more)] if check.fix else []


def _wrapped(text: str, left: str, indent: str | None = None) -> list[str]:
    more = " " * len(left) if indent is None else indent
    return textwrap.wrap(text, WIDTH, initial_indent=left, subsequent_indent=more, break_long_words=False) or [left]


def _shown(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


def _html_row(check: Check) -> str:
    verdict = f'<b style="color:{COLORS[check.verdict]}">{html.escape(check.verdict)}</b>'
    detail = html.escape(check.detail)
    if check.fix:
        detail += f'<pre style="margin:4px 0;white-space:pre-wrap">{html.escape(check.fix)}</pre>'
    if check.evidence:
        shown = "\n".join(f"{name} = {_shown(value)}" for name, value in check.evidence.items())
        evidence = f'<pre style="white-space:pre-wrap">{html.escape(shown)}</pre>'
        detail += f"<details><summary>evidence</summary>{evidence}</details>"
    cells = (html.escape(check.name), verdict, detail)
    return "<tr>" + "".join(f'<td style="text-align:left;vertical-align:top">{cell}</td>' for cell in cells) + "</tr>"
