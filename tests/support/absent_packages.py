"""Stand-ins for packages that a pipeline imports and that a proof never calls: TensorFlow, SeqIO, gin, …

Anything may be imported from them, subclassed, used as a decorator or written in an annotation; a call of one gives
another stand-in. `tensorflow.io.gfile` works, on local files: T5X writes its checkpoints through it.
"""

from __future__ import annotations

import glob
import importlib.abc
import importlib.machinery
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any


class _AnyName(type):
    """A class with every attribute, each of them such a class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls if name == "__wrapped__" else _AnyName(name, (Absent,), {"__module__": cls.__module__})

    def __or__(cls, other: Any) -> Any:
        return Any

    __ror__ = __or__

    def __getitem__(cls, key: Any) -> Any:
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())


class Absent(metaclass=_AnyName):
    """What a name of an absent package is: a class to derive from, a decorator, a value."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Gives back a function that it decorates, and itself of any other call."""
        if cls.__module__ in _MADE and len(args) == 1 and not kwargs and callable(args[0]):
            return args[0]
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Takes anything."""

    def __getattr__(self, name: str) -> Any:
        """Every attribute is there."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(type(self), name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As a decorator with arguments: the function comes back."""
        return args[0] if len(args) == 1 and callable(args[0]) else self


_MADE: set[str] = set()


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of the absent packages, whatever they are called."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """A spec of this loader, for the names given and all below them."""
        if any(fullname == name or fullname.startswith(f"{name}.") for name in self.names):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: Any) -> ModuleType:
        """A module whose every name is an `Absent` class."""
        module = ModuleType(spec.name)
        _MADE.add(spec.name)

        def attribute(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return _AnyName(name, (Absent,), {"__module__": spec.name})

        module.__getattr__ = attribute  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Fills `tensorflow.io.gfile` and nothing else."""
        if module.__name__ == "tensorflow.io":
            module.gfile = sys.modules.setdefault("tensorflow.io.gfile", local_files())  # type: ignore[attr-defined]
        if module.__name__ == "tensorflow":
            module.io = importlib.import_module("tensorflow.io")  # type: ignore[attr-defined]
            module.__version__ = "2.0.0"


def local_files() -> ModuleType:
    """`tensorflow.io.gfile` on the local file system, as far as T5X asks it."""
    gfile = ModuleType("tensorflow.io.gfile")

    def remove_tree(path: str) -> None:
        shutil.rmtree(path)

    def make_folders(path: str) -> None:
        os.makedirs(path, exist_ok=True)

    def rename(old: str, new: str, overwrite: bool = False) -> None:
        os.replace(old, new) if overwrite else os.rename(old, new)

    working = {
        "GFile": lambda path, mode="r": open(path, mode),
        "exists": os.path.exists,
        "isdir": os.path.isdir,
        "listdir": os.listdir,
        "glob": glob.glob,
        "makedirs": make_folders,
        "mkdir": os.mkdir,
        "remove": os.remove,
        "rmtree": remove_tree,
        "rename": rename,
        "copy": lambda old, new, overwrite=False: shutil.copyfile(old, new),
        "stat": os.stat,
        "walk": os.walk,
    }
    for name, function in working.items():
        setattr(gfile, name, function)
    return gfile


def stand_in(*names: str) -> None:
    """Puts a stand-in at each of `names` (`pkg` or `pkg.module`) that this Python cannot import."""
    missing = [name for name in names if not _installed(name)]
    sys.meta_path.append(_Finder(missing))


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
