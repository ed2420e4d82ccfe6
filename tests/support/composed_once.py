"""Hydra reads each file of conf/, and merges those of each choice of groups, once a process, not once a command."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest import mock

from hydra import version
from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import DefaultsList, Overrides
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

from runner.config import conf_folder

Plugins.instance()  # imports the module of FileConfigSource once more
FileConfigSource: Any = SourcesRegistry.instance().resolve("file")

STEPS = (
    (config_loader_impl, "create_defaults_list"),
    (ConfigLoaderImpl, "_compose_config_from_defaults_list"),
    (FileConfigSource, "load_config"),
    (Hydra, "get_mode"),
    (CachingConfigRepository, "__init__"),
)
lists, merges, reads, modes, copies = (getattr(owner, name) for owner, name in STEPS)

VALUE = re.compile(r"([a-z_]+)(\.[a-z_]+)*=")


@contextmanager
def composed_once() -> Iterator[None]:
    """Meanwhile five steps of Hydra's, most of a config's time, are not taken again.

    Four are functions of conf/ and the chosen groups, and hand out copies of what they returned before: a file as it
    is read, which files a config is made of, those files merged, and `hydra.mode`. The fifth copies the repository of
    configs, which needs no copies of what is in it. With any other folder of configs, and where one raised, the four
    run as ever; and so does all else, from the parser of overrides to their errors.
    """
    main = f"file://{conf_folder.config_dir()}"
    known: dict[Any, Any] = {}

    def once(key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        if key not in known:
            known[key] = make()
        return known[key]

    def copied(key: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        return pickle.loads(once(key, lambda: pickle.dumps(make(), pickle.HIGHEST_PROTOCOL)))  # faster than deepcopy

    def place_of(repository: Any) -> tuple[Any, ...] | None:
        """Where configs come from; None where that is more than conf/ and what is installed."""
        sources = [(one.provider, one.full_path()) for one in repository.get_sources()]
        if any(path.startswith("file://") and path != main for _, path in sources):
            return None
        return (*sources, version.getbase(), id(ConfigStore.instance()))

    def read(self: Any, config_path: str) -> Any:
        if self.full_path() != main:
            return reads(self, config_path)
        return copied(("file", config_path, self.provider), lambda: reads(self, config_path))

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
        return copied(("merged", place, repr(defaults)), lambda: merges(self, defaults, repo))

    def mode(self: Hydra, config_name: str | None, overrides: Sequence[str]) -> Any:
        repository = self.config_loader.repository
        place = place_of(repository)
        if place is None:
            return modes(self, config_name, overrides)
        found = [(VALUE.match(text), text) for text in overrides]
        rest = [text for key, text in found if not key or key[1] == "hydra" or repository.group_exists(key[1])]
        return once(("mode", place, config_name, *rest), lambda: modes(self, config_name, rest))

    def shallow(self: CachingConfigRepository, delegate: Any) -> None:
        # Another search path gives the copy another list of sources; sources themselves never change.
        self.delegate, self.cache = copy.copy(delegate), {}

    with _replaced(listed, merged, read, mode, shallow):
        yield


@contextmanager
def _replaced(*steps: Any) -> Iterator[None]:
    with ExitStack() as stack:
        for (owner, name), step in zip(STEPS, steps, strict=True):
            stack.enter_context(mock.patch.object(owner, name, step))
        yield


def composed_each_time() -> AbstractContextManager[None]:
    """Meanwhile Hydra composes as it comes."""
    return _replaced(lists, merges, reads, modes, copies)
