"""`python -m runner` is the command `bridge-runner`."""

import sys

if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - a checkout runs with any Python; pip has refused the others
        version = ".".join(map(str, sys.version_info[:3]))
        sys.exit(
            f"error: bridge-runner needs Python 3.11 or later, and this is {version}.\n  Try: python3.11 -m runner"
        )

    from runner.commands.main import entry

    entry()
