"""Hydra reads each file of conf/, and merges those of each choice of groups, once a process, not once a command."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock

from hydra import version
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore

from runner.config import conf_folder

STEPS = (
    (config_loader_impl, "create_defaults_list"),
    (ConfigLoaderImpl, "_compose_config_from_defaults_list"),
    (FileConfigSource, "load_config"),
    (Hydra, "get_mode"),
)
lists, merges, reads, modes = (getattr(owner, name) for owner, name in STEPS)

VALUE = re.compile(r"([a-z_]+)(\.[a-z_]+)*=")


@contextmanager
def composed_once() -> Iterator[None]:
    """Meanwhile four steps of Hydra's, most of a config's time, hand out copies of what they returned before.

    They are functions of conf/ and the chosen groups: a file as it is read, which files a config is made of, those
    files merged, and `hydra.mode`. With any other folder of configs, and where one raised, they run as ever; and so
    does all else, from the parser of overrides to their errors.
    """
    main = f"file://{conf_folder.config_dir()}"
    known: dict[Any, Any] = {}

    def once(key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in known:
            known[key] = make()
        return known[key]

    def place_of(repository: Any) -> tuple[Any, ...] | None:
        """Where configs come from; None where that is more than conf/ and what is installed."""
        sources = [(one.provider, one.full_path()) for one in repository.get_sources()]
        if any(path.startswith("file://") and path != main for _, path in sources):
            return None
        return (*sources, version.getbase(), id(ConfigStore.instance()))

    def read(self: FileConfigSource, config_path: str) -> Any:
        if self.path != main:
            return reads(self, config_path)
        return copy.deepcopy(once(("file", config_path, self.provider), lambda: reads(self, config_path)))

    def listed(*, repo: Any, overrides_list: Sequence[Any], **others: Any) -> DefaultsList:
        def make() -> DefaultsList:
            return lists(repo=repo, overrides_list=overrides_list, **others)

        place, values = place_of(repo), Overrides(repo, overrides_list).config_overrides
        if place is None:
            return make()
        choices = tuple(one.input_line for one in overrides_list if not any(one is value for value in values))
        return dataclasses.replace(once(("list", place, choices, *others.items()), make), config_overrides=values)

    def merged(self: ConfigLoaderImpl, defaults: Sequence[Any], repo: Any) -> Any:
        place = place_of(repo)
        if place is None:
            return merges(self, defaults, repo)
        return copy.deepcopy(once(("merged", place, repr(defaults)), lambda: merges(self, defaults, repo)))

    def mode(self: Hydra, config_name: str | None, overrides: Sequence[str]) -> Any:
        repository = self.config_loader.repository
        place = place_of(repository)
        if place is None:
            return modes(self, config_name, overrides)
        found = [(VALUE.match(text), text) for text in overrides]
        rest = [text for key, text in found if not key or key[1] == "hydra" or repository.group_exists(key[1])]
        return once(("mode", place, config_name, *rest), lambda: modes(self, config_name, rest))

    with _replaced(listed, merged, read, mode):
        yield


@contextmanager
def _replaced(*steps: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for (owner, name), step in zip(STEPS, steps, strict=True):
            stack.enter_context(mock.patch.object(owner, name, step))
        yield


def composed_each_time() -> AbstractContextManager[None]:
    """Meanwhile Hydra composes as it comes."""
    return _replaced(lists, merges, reads, modes)
