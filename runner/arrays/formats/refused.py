"""Files that are known and not read: pickles could run any code, and others hold no tree of JAX arrays."""

from __future__ import annotations

import re

# First bytes of what is no checkpoint of a JAX program, or one whose reader is not here.
KNOWN = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras)",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a single array (npy), without names",
    b"\x1f\x8b": "compressed by gzip: unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd: unpack it first",
    b"BZh": "compressed by bzip2: unpack it first",
    b"\xfd7zXZ\x00": "compressed by xz: unpack it first",
    b"\x7fELF": "a program",
    b"\x89PNG": "a picture",
}

PICKLE_SUFFIXES = (".pkl", ".pickle", ".p", ".joblib", ".pt", ".pth")

# The newest protocols begin with their number; the oldest is text: `(dp0` or `c` with a module and a name.
BINARY_PICKLE = re.compile(rb"\x80[\x02-\x05]", re.DOTALL)
TEXT_PICKLE = re.compile(rb"(\([dlt]p\d+\n|c[\w.]+\n[\w.]+\n|[\]}][q.(])", re.DOTALL)


class Refusal(Exception):
    """What a file is that is not read; the first argument is a noun."""


def pickled(what: str) -> Refusal:
    """The refusal of a pickle."""
    return Refusal(f"{what}: reading it could run any code, so it is never loaded")


def require_readable(start: bytes, suffix: str) -> None:
    """Validates that a file is none of those that are not read.

    Args:
      start: Its first bytes, at least 64 if it has as many.
      suffix: What its name ends with.

    Raises:
      Refusal: It is a pickle, or known to hold no tree of arrays.
    """
    if BINARY_PICKLE.match(start) or TEXT_PICKLE.match(start):
        raise pickled("a pickle")
    for magic, what in KNOWN.items():
        if start.startswith(magic):
            raise Refusal(what)
    if suffix in PICKLE_SUFFIXES and not start.startswith(b"PK"):
        raise pickled("a pickle, by its name")
