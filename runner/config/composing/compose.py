"""Composes overrides into configs, each derived from one composed base.

Hydra takes tens of milliseconds to compose a config. Here it composes once per choice of groups; value overrides are
applied to a copy with Hydra's own function, so that the configs equal the ones Hydra would have composed.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner.config import conf_folder, env_secrets, schema
from runner.config.composing.composed import Config
from runner.config.composing.hydra_yaml import ConfigDumper, dump
from runner.config.composing.overrides import may_see_seed, plain, texts
from runner.config.env_secrets import Redaction
from runner.config.explain import explain, is_hydra_error
from runner.config.serialize import to_data
from runner.config.settings import rules as rules_settings
from runner.config.settings.run import Run
from runner.errors import UserError

# Sweeps have many seeds: configs that differ only in the seed are derived from one, if nothing refers to the seed.
SEED = re.compile(r"seed=(\d{1,9})")


NUMBER_AS_SEED = re.compile(r"seed=(0|[1-9]\d{0,8})")  # to Hydra, 007 is a string


# Configs cached to derive others from; beyond that, the oldest are evicted.
MAX_FAMILIES = 256


@dataclass(frozen=True)
class _Base:
    """One composed choice of groups: the task's config, Hydra's own, and what `${hydra:…}` resolves against."""

    task: DictConfig
    hydra: DictConfig
    whole: DictConfig


@dataclass(frozen=True)
class _Family:
    """Configs equal except for the seed, as one of them; `run` is None if something refers to the seed."""

    run: Run | None
    container: dict[str, Any]
    redaction: Redaction

    def config_text(self, seed: int) -> str:
        """`config.yaml` of the member with this seed."""
        # Only a top-level key starts a line.
        return re.sub(f"^seed: {MARK_NUM}$", f"seed: {seed}", self._marked, count=1, flags=re.MULTILINE)

    @functools.cached_property
    def _marked(self) -> str:
        return dump(self.container | {"seed": MARK_NUM})


@dataclass(frozen=True)
class _Typed:
    """The overrides of one job, as Hydra keeps them."""

    task: list[str]
    dirname: str
    num: int


class Composer:
    """Composes configs from lists of overrides.

    Args:
      config_loader: Hydra's, for this program.
      config_name: Name of the primary config.
      hydra_overrides: Overrides of `hydra.…` that apply to every config.
      master: The config that the sweep started with; `${now:…}` keeps its values.
    """

    def __init__(
        self,
        config_loader: Any,
        config_name: str | None,
        hydra_overrides: Sequence[str] = (),
        master: DictConfig | None = None,
    ) -> None:
        self._loader = config_loader
        self._config_name = config_name
        self._hydra_overrides = list(hydra_overrides)
        self._master = master
        # Several threads write runs, and a composed base serves one job at a time.
        self._lock = threading.Lock()
        self._bases: dict[tuple[str, ...], _Base] = {}
        self._parse_any = functools.cache(OverridesParser.create(config_loader=config_loader).parse_override)
        # Includes the folders of a typed `hydra.searchpath`, which the loader's own repository lacks.
        _, repository = config_loader._parse_overrides_and_create_caching_repo(config_name, list(hydra_overrides))
        self._is_group = functools.cache(repository.group_exists)
        self._family = functools.lru_cache(MAX_FAMILIES)(self._make_family)
        self._hydra_template = functools.lru_cache(MAX_FAMILIES)(self._make_hydra_template)

    def task_config(self, overrides: Sequence[str], num: int = 0) -> DictConfig:
        """The config of one job, without the `hydra` node, exactly as Hydra would compose it.

        Raises:
          HydraException: An override that can't be applied.
        """
        structural, rest = self._split(overrides)
        base = self._base(structural)
        _enter(base.whole, self._typed(overrides, num, base.whole))
        task = copy.deepcopy(base.task)
        _apply(rest, task)
        return task

    def config(self, overrides: Sequence[str], num: int = 0, where: str = "") -> Config:
        """The config of one job, typed and validated.

        Raises:
          UserError: An invalid value.
          HydraException: An override that can't be applied.
        """
        typed = tuple(overrides)
        kin = self._kin(typed)
        if kin:
            run, found = dataclasses.replace(kin[1], seed=kin[0]), kin[2].redaction
        else:
            task = self.task_config(typed, num)
            run, found = schema.from_config(task), env_secrets.of_config(plain(task))
            env_secrets.require_no_names(found, to_data(run))
        files = self.hydra_files_of(typed)
        return Config(
            run=run, overrides=typed, where=where, hydra_files=files, files_of=self.hydra_files_of, redaction=found
        )

    def hydra_files_of(self, overrides: tuple[str, ...]) -> Callable[[int], Mapping[str, str]]:
        """A function from the job's number to the files that Hydra writes for a job with these overrides."""
        return functools.partial(self._hydra_files, overrides)

    def _kin(self, overrides: tuple[str, ...]) -> tuple[int, Run, _Family] | None:
        """The seed of one job, and what it is derived from; None if it has to be composed separately."""
        found = [SEED.fullmatch(text) for text in overrides]
        seeds = [match[1] for match in found if match]
        if len(seeds) != 1:
            return None
        others = tuple(text for text, match in zip(overrides, found, strict=True) if not match)
        if _names_seed(others):
            return None
        family = self._family(others)
        return None if family.run is None else (int(seeds[0]), family.run, family)

    def _config_text(self, overrides: tuple[str, ...], num: int) -> str:
        kin = self._kin(overrides)
        return dump(plain(self.task_config(overrides, num))) if kin is None else kin[2].config_text(kin[0])

    def _make_family(self, overrides: tuple[str, ...]) -> _Family:
        task = self.task_config((*overrides, "seed=0"))
        container = plain(task)
        interpolations = [text for text in texts(container) if "${" in text]
        derivable = "seed" in container and not any(may_see_seed(text) for text in interpolations)
        # If it can't be derived from, it need not be valid with this seed.
        run = schema.from_config(task) if derivable else None
        found = env_secrets.of_config(container)
        if run is not None:
            env_secrets.require_no_names(found, to_data(run))
        return _Family(run=run, container=container, redaction=found)

    def _hydra_files(self, overrides: tuple[str, ...], num: int) -> Mapping[str, str]:
        with self._lock:
            structural, _ = self._split(overrides)
            hydra = self._hydra_template(structural)
            typed = self._typed(overrides, num, self._base(structural).hydra)
            config = self._config_text(overrides, num)
        values = _job_values(typed)
        return {
            "config.yaml": config,
            "hydra.yaml": MARKS.sub(lambda match: values[match[0]], hydra),
            "overrides.yaml": yaml.dump(typed.task, Dumper=ConfigDumper, allow_unicode=True),
        }

    def _make_hydra_template(self, structural: tuple[str, ...]) -> str:
        """`hydra.yaml` of a choice of groups, with placeholders where jobs differ: dumping it takes milliseconds."""
        hydra: Any = copy.deepcopy(self._base(structural).hydra)
        with open_dict(hydra):
            hydra.hydra.overrides.task = [MARK_TASK]
            hydra.hydra.job.override_dirname = MARK_DIRNAME
            hydra.hydra.job.num = MARK_NUM
            hydra.hydra.job.id = MARK_ID
        return OmegaConf.to_yaml(hydra)

    def _typed(self, overrides: Sequence[str], num: int, hydra: Any) -> _Typed:
        task = [one for one in map(self._parse, overrides) if not one.is_hydra_override()]
        how = hydra.hydra.job.config.override_dirname
        dirname = get_overrides_dirname(
            task, exclude_keys=list(how.exclude_keys), item_sep=how.item_sep, kv_sep=how.kv_sep
        )
        return _Typed(task=[str(one.input_line) for one in task], dirname=dirname, num=num)

    def _parse(self, text: str) -> Override:
        """Parses an override as Hydra does, except a numeric seed: Hydra's parser takes half a millisecond."""
        if number := NUMBER_AS_SEED.fullmatch(text):
            return dataclasses.replace(self._parse_any("seed=0"), _value=int(number[1]), input_line=text)
        return self._parse_any(text)

    def _split(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[Override]]:
        """Splits overrides into those that need composing and parsed value overrides for a composed config."""
        parsed = [(text, self._parse(text)) for text in overrides]
        structural = tuple(text for text, one in parsed if self._is_structural(one))
        return structural, [one for _, one in parsed if not self._is_structural(one)]

    def _is_structural(self, override: Override) -> bool:
        key = override.key_or_group
        if key == "hydra" or key.startswith("hydra."):
            return True
        # A dict assigned to a group is a value, not a choice.
        return self._is_group(key) and not isinstance(override.value(), dict)

    def _base(self, structural: tuple[str, ...]) -> _Base:
        if structural not in self._bases:
            self._bases[structural] = self._compose(structural)
        return self._bases[structural]

    def _compose(self, structural: tuple[str, ...]) -> _Base:
        composed = self._loader.load_configuration(
            config_name=self._config_name,
            overrides=[*self._hydra_overrides, *structural],
            run_mode=RunMode.RUN,
        )
        if self._master is not None:
            OmegaConf.copy_cache(from_config=self._master, to_config=composed)
        hydra = OmegaConf.create({"hydra": composed.hydra})
        # Copies of `hydra` take most of the time: the task's is made without one.
        task = copy.deepcopy(composed, {id(composed.hydra): OmegaConf.create()})
        with open_dict(task):
            del task["hydra"]
        HydraConfig.instance().set_config(composed)  # copies it: milliseconds
        whole = HydraConfig.instance().cfg
        assert isinstance(whole, DictConfig)
        return _Base(task=task, hydra=hydra, whole=whole)


MARK_TASK, MARK_DIRNAME, MARK_NUM, MARK_ID = "@task@", "@dirname@", 918273645, "@id@"


MARKS = re.compile(rf"\n    - '{MARK_TASK}'|'{MARK_DIRNAME}'|'{MARK_ID}'|num: {MARK_NUM}")


def compose(overrides: Sequence[str]) -> Run:
    """The config of one run, exactly as the command line would compose it.

    Raises:
      UserError: Hydra rejects an override, or the config is invalid.
    """
    import hydra

    schema.register()
    try:
        with hydra.initialize_config_dir(str(conf_folder.config_dir()), version_base="1.3"):
            return schema.from_config(hydra.compose("config", rules_settings.as_overrides(overrides)))
    except UserError:
        raise
    except Exception as error:
        if not is_hydra_error(error):
            raise
        raise explain(error) from error


def hydra_files(task: DictConfig, hydra: DictConfig, overrides: Sequence[str]) -> dict[str, str]:
    """The three files that Hydra writes for a job, by name."""
    return {
        "config.yaml": OmegaConf.to_yaml(task),
        "hydra.yaml": OmegaConf.to_yaml(hydra),
        "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(list(overrides))),
    }


@functools.lru_cache(MAX_FAMILIES)
def _names_seed(overrides: tuple[str, ...]) -> bool:
    """Whether an override may set the seed, or removes something."""
    return any(text.startswith(("~", "+seed", "++seed", "seed=")) for text in overrides)


def _job_values(typed: _Typed) -> dict[str, str]:
    """The values in `hydra.yaml` that differ between jobs, by the placeholder that `MARKS` matches."""
    items = "\n    - ".join(_scalar(text) for text in typed.task)
    return {
        f"\n    - '{MARK_TASK}'": f"\n    - {items}" if typed.task else " []",
        f"'{MARK_DIRNAME}'": _scalar(typed.dirname),
        f"'{MARK_ID}'": _scalar(str(typed.num)),
        f"num: {MARK_NUM}": f"num: {typed.num}",
    }


def _scalar(text: str) -> str:
    dumped = yaml.dump(text, Dumper=ConfigDumper, default_style='"', width=10**9, allow_unicode=True)
    return str(dumped).rstrip("\n")


def _enter(whole: DictConfig, typed: _Typed) -> None:
    """Makes `${hydra:…}` resolve for this job."""
    hydra: Any = whole.hydra
    with read_write(hydra), open_dict(hydra):
        hydra.job.num = typed.num
        hydra.job.id = str(typed.num)
        hydra.job.override_dirname = typed.dirname
        hydra.overrides.task = typed.task
    HydraConfig.instance().cfg = whole  # type: ignore[assignment]


def _apply(overrides: Sequence[Override], config: DictConfig) -> None:
    # A private function of Hydra's: a test compares the result with Hydra's over a wide grid.
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)
