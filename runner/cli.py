"""The command: what is typed, to a call and an exit code. What is set for the whole process is set here."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from runner import settings
from runner.errors import UserError

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

USER_ERROR_PREFIX = "error: "


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and gives its exit code.

    Args:
      argv: Words after the program's name; by default what was typed.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words == ["--version"]:
            print(f"bridge-runner {importlib.metadata.version('bridge-runner')}")
            return 0
        return hydra_command(words)
    except UserError as error:
        return fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return fail("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe has had enough: no traceback, and none from the flush at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def entry() -> None:
    """The console script."""
    sys.exit(main())


def hydra_command(words: Sequence[str]) -> int:
    """A Hydra command line: one run, or with `-m` a sweep.

    Raises:
      UserError: Hydra refuses what was typed, or a config can't run.
    """
    _make_importable()
    import hydra

    from runner.application import Application
    from runner.sweeping import explain, is_hydra_error

    settings.register()
    # Hydra would print its own errors and exit with 1; this way they come here, and bugs keep their traceback.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    sys.argv = [sys.argv[0], *words]
    application = Application()
    decorate = hydra.main(version_base="1.3", config_path=str(settings.config_dir()), config_name="config")
    try:
        decorate(application)()
    except UserError:
        raise
    except Exception as error:
        if not is_hydra_error(error):
            raise
        raise explain(error) from error
    if application.error is not None:
        raise application.error
    return application.exit_code


def fail(text: str, code: int) -> int:
    """Says why on standard error; gives `code`."""
    print(f"{USER_ERROR_PREFIX}{text}", file=sys.stderr)
    return code


def _make_importable() -> None:
    """The user's modules in the working directory, and in a checkout that is not installed our Hydra plugins."""
    plugins = Path(__file__).resolve().parent / "plugins"
    for folder in (os.getcwd(), str(plugins) if plugins.is_dir() else None):
        if folder is not None and folder not in sys.path:
            sys.path.append(folder)
