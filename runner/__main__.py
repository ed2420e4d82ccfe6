"""`python -m runner` is the command `bridge-runner`."""

from runner.cli import entry

if __name__ == "__main__":
    entry()
