"""Stand-ins for what a pipeline imports and these proofs do not call: TensorFlow, readers of data, loggers."""

from __future__ import annotations

import functools
import glob
import importlib.abc
import importlib.machinery
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


class _Nothing(type):
    """The type of a class that has every attribute, can be called, subclassed and subscripted, and does nothing."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing(name)

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        """As a decorator it gives the function back; a class derived from a stand-in makes objects as usual."""
        if "__stands_in__" in vars(cls) and len(arguments) == 1 and callable(arguments[0]) and not keywords:
            return arguments[0]
        return super().__call__(*arguments, **keywords)

    def __getitem__(cls, _: Any) -> Any:
        return cls

    def __or__(cls, _: Any) -> Any:
        return cls

    __ror__ = __or__


def _nothing(name: str) -> Any:
    def call(self: Any, *arguments: Any, **_: Any) -> Any:
        """As a decorator of a function it gives that function back."""
        return arguments[0] if len(arguments) == 1 and callable(arguments[0]) else _nothing(name)

    members = {"__init__": lambda self, *a, **k: None, "__call__": call, "__getattr__": lambda self, n: _nothing(n)}
    return _Nothing(name, (), {**members, "__stands_in__": True})


class _Stub(ModuleType):
    __path__: Sequence[str] = ()
    __version__ = "999"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _nothing(name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, names: Sequence[str]):
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if any(name == known or name.startswith(known + ".") for known in self.names):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to execute."""


def stand_in(*names: str) -> None:
    """Makes `import NAME` and any `import NAME.sub` of these dotted names give an empty stand-in."""
    sys.meta_path.insert(0, _Finder(names))


def own_cached_property() -> None:
    """The package `cached_property`, by Python's own."""
    module = ModuleType("cached_property")
    vars(module)["cached_property"] = functools.cached_property
    sys.modules["cached_property"] = module


def local_gfile() -> None:
    """`tensorflow.io.gfile` on local files, for a `tensorflow` that `stand_in` made."""
    import tensorflow  # the stand-in
    import tensorflow.io  # of the same

    gfile = ModuleType("tensorflow.io.gfile")
    functions = {
        "exists": os.path.exists,
        "isdir": os.path.isdir,
        "listdir": os.listdir,
        "makedirs": lambda path: os.makedirs(path, exist_ok=True),
        "mkdir": os.mkdir,
        "remove": os.remove,
        "rmtree": shutil.rmtree,
        "rename": lambda old, new, overwrite=False: os.replace(old, new),
        "copy": lambda old, new, overwrite=False: shutil.copyfile(old, new),
        "glob": glob.glob,
        "stat": os.stat,
        "GFile": _open,
    }
    vars(gfile).update(functions)
    vars(tensorflow.io)["gfile"] = gfile
    vars(tensorflow)["io"] = tensorflow.io
    sys.modules["tensorflow.io.gfile"] = gfile


def _open(path: str, mode: str = "r") -> Any:
    return Path(path).open(mode)
