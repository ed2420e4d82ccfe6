"""What a sweep tells, kept: a reporter for tests that call `runner.sweep` itself."""

from __future__ import annotations


class Reporter:
    """Keeps the warnings, and of failed runs what went wrong."""

    def __init__(self):
        self.said = []

    def started(self, plan, num_pending):
        """Nothing."""

    def compiled(self, num, total):
        """Nothing."""

    def finished(self, record, folder):
        self.said += [record.error.message] if record.error else []

    def advanced(self):
        """Nothing."""

    def warned(self, text):
        self.said.append(text)
