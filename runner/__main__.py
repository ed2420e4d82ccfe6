"""`python -m runner` is the command `bridge-runner`."""

from runner.commands.main import entry

if __name__ == "__main__":
    entry()
