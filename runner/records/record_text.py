"""Reads the texts of many records, in which most settings and the machine are the same: these are read once."""

from __future__ import annotations

from typing import Any

from runner.records.codec import parse
from runner.records.families import Families

# As `data_to_json` indents them.
INDENT = 1
SETTINGS = b'\n "settings": {'
FINGERPRINT = b'\n "fingerprint": {'
END = b"\n }"


class RecordTexts:
    """Reads one record after the other; they share values of settings and fingerprints that are the same."""

    def __init__(self) -> None:
        self._families = Families(INDENT)
        self._fingerprint = b""
        self._machine: Any = None

    def data(self, text: bytes) -> Any:
        """`codec.parse`.

        Raises:
          ValueError: It is no JSON.
        """
        try:
            return self._assembled(text)
        except (ValueError, LookupError, TypeError):  # of another form than ours, or no JSON
            return parse(text)

    def _assembled(self, text: bytes) -> Any:
        """The record without its settings and its fingerprint, and these put back.

        That the word in their place is found in both says that nothing else was replaced.
        """
        first = text.index(SETTINGS) + len(SETTINGS) - 1
        settings, first_end = self._families.read(text, first)
        second = text.index(FINGERPRINT, first_end) + len(FINGERPRINT) - 1
        machine, second_end = self._read_machine(text, second)
        word = self._families.word
        data = parse(f'"{word}"'.encode().join((text[:first], text[first_end:second], text[second_end:])))
        if data["settings"] != word or data["fingerprint"] != word:
            raise ValueError("it is of another form")
        data["settings"], data["fingerprint"] = settings, machine
        return data

    def _read_machine(self, text: bytes, opened: int) -> tuple[Any, int]:
        if not (self._fingerprint and text.startswith(self._fingerprint, opened)):
            found = text[opened : text.index(END, opened) + len(END)]
            self._machine = parse(found)
            self._fingerprint = found
        return self._machine, opened + len(self._fingerprint)
