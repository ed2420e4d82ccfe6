"""Hydra composes equal overrides once a process: a command composes its words twice, and most tests the same groups."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobRuntime
from hydra.types import RunMode

from runner.config import conf_folder

# What makes a config depend on more than its overrides and conf/.
OTHER_SOURCES = ("env_copy", "searchpath")


@contextmanager
def composed_once() -> Iterator[None]:
    """Meanwhile `ConfigLoaderImpl` hands out copies of what it has composed from conf/ alone; errors are as without.

    And Hydra, which composes a command's words twice, the first time to see `hydra.mode` alone, sees that once a choice
    of groups.
    """
    load, get_mode = ConfigLoaderImpl.load_configuration, Hydra.get_mode
    known: dict[Any, Any] = {}
    main = f"file://{conf_folder.config_dir()}"

    def loaded(
        self: ConfigLoaderImpl,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> Any:
        sources = tuple((one.provider, one.full_path()) for one in self.repository.get_sources())
        files = [path for _, path in sources if path.startswith("file://") and path != main]
        if files or any(word in text for word in OTHER_SOURCES for text in overrides):
            return load(self, config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        names = (config_name, JobRuntime.instance().get("name"), version.getbase(), id(ConfigStore.instance()))
        key = (sources, names, tuple(overrides), run_mode)
        if key not in known:
            known[key] = load(self, config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        elif validate_sweep_overrides:
            parsed = OverridesParser.create().parse_overrides(overrides)
            self.validate_sweep_overrides_legal(overrides=parsed, run_mode=run_mode, from_shell=from_shell)
        config = copy.deepcopy(known[key])
        config.hydra.runtime.cwd = os.getcwd()
        return config

    def mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
        return get_mode(self, config_name, [one for one in overrides if not is_value(self, one)])

    def is_value(hydra: Hydra, override: str) -> bool:
        key = re.match(r"[a-z_]+(\.[a-z_]+)*(?==)", override)
        return bool(key) and key[0].split(".")[0] != "hydra" and not hydra.config_loader.repository.group_exists(key[0])

    ConfigLoaderImpl.load_configuration, Hydra.get_mode = loaded, mode
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration, Hydra.get_mode = load, get_mode
