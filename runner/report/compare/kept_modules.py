"""Imports modules from kept sources in place of the files that are on the path now."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Mapping, Sequence
from types import CodeType, ModuleType


def install(texts: Mapping[str, str], place: str) -> None:
    """Makes every later import of these modules run these sources.

    Args:
      texts: The sources, by module name.
      place: What the modules' file names begin with; nothing needs to be there.
    """
    sys.meta_path.insert(0, _Finder(texts, place))
    sys.meta_path.append(_Parents({name.rpartition(".")[0] for name in texts}))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the kept modules before anything else is looked at."""

    def __init__(self, texts: Mapping[str, str], place: str) -> None:
        self._texts = texts
        self._place = place

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._texts:
            return None
        here = importlib.machinery.PathFinder.find_spec(name, path)
        inner = list(here.submodule_search_locations or ()) if here is not None else []
        package = bool(inner) or any(other.startswith(f"{name}.") for other in self._texts)
        file = f"{self._place}/{name}.py"
        spec = importlib.util.spec_from_loader(name, _Loader(self._texts[name], file), origin=file, is_package=package)
        if spec is not None:
            spec.has_location = True
            if package:
                spec.submodule_search_locations = inner
        return spec


class _Loader(importlib.abc.InspectLoader):
    """Runs a kept source, and hands it to `inspect` and tracebacks."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file

    def get_source(self, fullname: str) -> str:
        return self._text

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._text, self._file)


class _Parents(importlib.abc.MetaPathFinder):
    """Finds the packages of kept modules that no other finder has, as empty packages."""

    def __init__(self, names: set[str]) -> None:
        self._names = {name[:end] for name in names for end in _ends(name)}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self._names:
            return None
        return importlib.machinery.ModuleSpec(name, None, is_package=True)


def _ends(name: str) -> list[int]:
    return [place for place, sign in enumerate(name) if sign == "."] + ([len(name)] if name else [])
