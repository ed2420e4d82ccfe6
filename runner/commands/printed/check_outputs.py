"""Where `check` puts what it found, besides its table: JSON, Markdown, JUnit XML, GitHub's annotations and summary."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.commands.printed.json_output import print_json, print_text
from runner.errors import StorageError, UserError
from runner.records.disk import files, plain_files

if TYPE_CHECKING:
    from runner.report.checked.program import CheckedProgram

# Set by GitHub for each step.
SUMMARY, WORKSPACE = "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"
JUNIT_SUFFIX = ".xml"


@dataclass(frozen=True, kw_only=True)
class CheckOutputs:
    """The outputs of one `check`.

    Attributes:
      as_json: Whether stdout gets JSON alone.
      as_markdown: Whether stdout gets Markdown alone.
      junit: The file that gets JUnit XML; an earlier one is replaced.
      to_github: Whether there are annotations, and a job summary.
      summary: The file of the job summary, which is added to.
      workspace: The checkout, whose files are annotated.
    """

    as_json: bool = False
    as_markdown: bool = False
    junit: Path | None = None
    to_github: bool = False
    summary: Path | None = None
    workspace: Path = Path()

    @property
    def table(self) -> bool:
        """Whether stdout gets the table."""
        return not self.as_json and not self.as_markdown

    def require(self) -> None:
        """Checks, before anything is imported or run, that each can be written.

        Raises:
          UserError: Two of them want stdout.
          StorageError: A file can't be written, or is not one.
        """
        if self.as_json and self.as_markdown:
            raise UserError("--json and --markdown: only one of them can have stdout", "--json, or --markdown")
        if self.junit is not None:
            if self.junit.suffix != JUNIT_SUFFIX:
                raise StorageError(f"--junit {self.junit}: a file is wanted whose name ends in {JUNIT_SUFFIX}", _JUNIT)
            _require_writable("--junit", self.junit, _JUNIT)
        if self.summary is not None:
            _require_writable(SUMMARY, self.summary, f"env -u {SUMMARY} bridge-runner check …")

    def write(self, programs: Sequence[CheckedProgram], as_data: Sequence[Any]) -> None:
        """Writes them all; files first, as whoever reads stdout may go.

        Raises:
          StorageError: A file can't be written.
        """
        from runner.report.checked import github, junit, markdown
        from runner.report.terminal import Terminal

        try:
            if self.junit is not None:
                files.write_atomic(self.junit, junit.to_junit(programs))
            if self.summary is not None:
                self._add_summary(self.summary, programs)
        except OSError as error:
            raise StorageError(f"{error.filename}: {error.strerror or error}") from error
        if self.to_github:
            terminal = Terminal()
            for line in github.commands(programs, self.workspace):
                # A runner reads both streams; where stdout is for one thing, it is not this.
                terminal.line(line) if self.table else terminal.warned(line)
            if self.summary is None:
                terminal.warned(f"{SUMMARY} is not set: there is no job summary")
        if self.as_json:
            print_json(list(as_data), indent=1)
        elif self.as_markdown:
            print_text(markdown.to_markdown(programs))

    def _add_summary(self, path: Path, programs: Sequence[CheckedProgram]) -> None:
        from runner.report.checked import markdown

        there = path.stat().st_size if path.exists() else 0
        room = markdown.SUMMARY_BYTES - there
        if room > 0:  # a summary that is too large is dropped as a whole
            with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(("\n" if there else "") + markdown.to_markdown(programs, max_bytes=room))


_JUNIT = f"--junit checks{JUNIT_SUFFIX}"


def from_environment(*, junit: str | None, to_github: bool, as_json: bool, as_markdown: bool) -> CheckOutputs:
    """The outputs that flags ask for, in the places that GitHub sets.

    Raises:
      UserError: As for `CheckOutputs.require`.
    """
    summary = os.environ.get(SUMMARY) if to_github else None
    outputs = CheckOutputs(
        as_json=as_json,
        as_markdown=as_markdown,
        junit=Path(junit) if junit is not None else None,
        to_github=to_github,
        summary=Path(summary) if summary else None,
        workspace=Path(os.environ.get(WORKSPACE) or "."),
    )
    outputs.require()
    return outputs


def _require_writable(what: str, path: Path, suggestion: str) -> None:
    """Checks, without writing anything, that `path` is a file that can be written, or can become one."""
    folder = path.parent
    if not folder.is_dir():
        raise StorageError(f"{what} {path}: there is no folder {folder}", f"mkdir -p {folder}")
    if path.exists() and (kind := plain_files.kind_of(path.stat().st_mode)):
        raise StorageError(f"{what} {path}: it is {kind}, and no file", suggestion)
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise StorageError(f"{what} {path}: it can't be written", suggestion)
