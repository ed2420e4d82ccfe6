"""Overrides to configs: the sweep's product, and each config derived from one composed base.

Composing takes Hydra tens of milliseconds a config. Here it is done once for each choice of groups; the value overrides
are applied to a copy with Hydra's own function, so that the configs are the ones that Hydra would have composed.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from runner.config import env_secrets, schema, serialize, zip_exclude
from runner.config.composed import Config
from runner.config.env_secrets import Redaction
from runner.config.settings import Run
from runner.errors import ConfigError, UserError, literal, nearest

# A sweep is long in its seeds: configs that differ in the seed alone are derived from one, if nothing refers to it.
SEED = re.compile(r"seed=(\d{1,9})")
NUMBER_AS_SEED = re.compile(r"seed=(0|[1-9]\d{0,8})")  # to Hydra, 007 is a text

# Of these resolvers it is known that they look at nothing in the config but their arguments.
PURE_RESOLVERS = ("axis", "oc.env")

# Configs kept to derive others from; beyond that the oldest go.
MAX_FAMILIES = 256


@dataclass(frozen=True)
class _Base:
    """One composed choice of groups: the task's config, Hydra's own, and what `${hydra:…}` answers from."""

    task: DictConfig
    hydra: DictConfig
    whole: DictConfig


@dataclass(frozen=True)
class _Family:
    """Configs that are equal but for the seed: one of them; `run` is None where something refers to the seed."""

    run: Run | None
    container: dict[str, Any]
    redaction: Redaction

    def config_text(self, seed: int) -> str:
        """`config.yaml` of the member with this seed."""
        # Only a top-level key begins a line.
        return re.sub(f"^seed: {MARK_NUM}$", f"seed: {seed}", self._marked, count=1, flags=re.MULTILINE)

    @functools.cached_property
    def _marked(self) -> str:
        return _dump(self.container | {"seed": MARK_NUM})


@dataclass(frozen=True)
class _Typed:
    """What was typed for one job, as Hydra keeps it."""

    task: list[str]
    dirname: str
    num: int


class Composer:
    """Configs from lists of overrides.

    Args:
      config_loader: Hydra's, for this program.
      config_name: Name of the primary config.
      hydra_overrides: Overrides of `hydra.…` that hold for every config.
      master: The config that the sweep began with; `${now:…}` keeps its answers.
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
        # Runs are written in several threads, and a composed base answers for one job at a time.
        self._lock = threading.Lock()
        self._bases: dict[tuple[str, ...], _Base] = {}
        self._parse_any = functools.cache(OverridesParser.create(config_loader=config_loader).parse_override)
        # With the folders of a typed `hydra.searchpath`, which the loader's own repository does not have.
        _, repository = config_loader._parse_overrides_and_create_caching_repo(config_name, list(hydra_overrides))
        self._is_group = functools.cache(repository.group_exists)
        self._family = functools.lru_cache(MAX_FAMILIES)(self._make_family)
        self._hydra_template = functools.lru_cache(MAX_FAMILIES)(self._make_hydra_template)

    def task_config(self, overrides: Sequence[str], num: int = 0) -> DictConfig:
        """The config of one job, without the `hydra` node, as Hydra would have composed it.

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
        """The config of one job, typed and checked.

        Raises:
          UserError: A value without meaning.
          HydraException: An override that can't be applied.
        """
        typed = tuple(overrides)
        kin = self._kin(typed)
        if kin:
            run, found = dataclasses.replace(kin[1], seed=kin[0]), kin[2].redaction
        else:
            task = self.task_config(typed, num)
            run, found = schema.from_config(task), env_secrets.of_config(plain(task))
        return Config(run=run, overrides=typed, where=where, hydra_files=self.hydra_files_of(typed), redaction=found)

    def hydra_files_of(self, overrides: tuple[str, ...]) -> Callable[[int], Mapping[str, str]]:
        """What gives the files that Hydra leaves beside a job of these overrides, given the job's number."""
        return functools.partial(self._hydra_files, overrides)

    def _kin(self, overrides: tuple[str, ...]) -> tuple[int, Run, _Family] | None:
        """The seed of one job, and what it is derived from; None where it has to be composed by itself."""
        seeds = [match[1] for text in overrides if (match := SEED.fullmatch(text))]
        others = tuple(text for text in overrides if not SEED.fullmatch(text))
        if len(seeds) != 1 or any(text.startswith(("~", "+seed", "++seed", "seed=")) for text in others):
            return None
        family = self._family(others)
        return None if family.run is None else (int(seeds[0]), family.run, family)

    def _config_text(self, overrides: tuple[str, ...], num: int) -> str:
        kin = self._kin(overrides)
        return _dump(plain(self.task_config(overrides, num))) if kin is None else kin[2].config_text(kin[0])

    def _make_family(self, overrides: tuple[str, ...]) -> _Family:
        task = self.task_config((*overrides, "seed=0"))
        container = plain(task)
        interpolations = [text for text in _texts(container) if "${" in text]
        derivable = "seed" in container and not any(_may_see_seed(text) for text in interpolations)
        # Not derivable, it need not have a meaning of its own with this seed.
        run = schema.from_config(task) if derivable else None
        return _Family(run=run, container=container, redaction=env_secrets.of_config(container))

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
            "overrides.yaml": yaml.dump(typed.task, Dumper=_ConfigDumper, allow_unicode=True),
        }

    def _make_hydra_template(self, structural: tuple[str, ...]) -> str:
        """`hydra.yaml` of a choice of groups, with marks where jobs differ: dumping it takes milliseconds."""
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
        """An override as Hydra reads it; a number that is a seed it need not read, which takes half a millisecond."""
        if number := NUMBER_AS_SEED.fullmatch(text):
            return dataclasses.replace(self._parse_any("seed=0"), _value=int(number[1]), input_line=text)
        return self._parse_any(text)

    def _split(self, overrides: Sequence[str]) -> tuple[tuple[str, ...], list[Override]]:
        """Overrides that need composing, and the parsed rest: values that are put into a composed config."""
        parsed = [(text, self._parse(text)) for text in overrides]
        structural = tuple(text for text, one in parsed if self._is_structural(one))
        return structural, [one for _, one in parsed if not self._is_structural(one)]

    def _is_structural(self, override: Override) -> bool:
        key = override.key_or_group
        if key == "hydra" or key.startswith("hydra."):
            return True
        # A dict given to a group is a value, not a choice.
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
        task = copy.deepcopy(composed)
        with open_dict(task):
            hydra = OmegaConf.create({"hydra": task.pop("hydra")})
        HydraConfig.instance().set_config(composed)  # copies it: milliseconds
        whole = HydraConfig.instance().cfg
        assert isinstance(whole, DictConfig)
        return _Base(task=task, hydra=hydra, whole=whole)


MARK_TASK, MARK_DIRNAME, MARK_NUM, MARK_ID = "@task@", "@dirname@", 918273645, "@id@"
MARKS = re.compile(rf"\n    - '{MARK_TASK}'|'{MARK_DIRNAME}'|'{MARK_ID}'|num: {MARK_NUM}")


def compose(overrides: Sequence[str]) -> Run:
    """The config of one run, as the command line would compose it.

    Raises:
      UserError: Hydra refuses an override, or the config has no meaning.
    """
    import hydra

    schema.register()
    try:
        with hydra.initialize_config_dir(str(schema.config_dir()), version_base="1.3"):
            return schema.from_config(hydra.compose("config", list(overrides)))
    except UserError:
        raise
    except Exception as error:
        if not is_hydra_error(error):
            raise
        raise explain(error) from error


def hydra_files(task: DictConfig, hydra: DictConfig, overrides: Sequence[str]) -> dict[str, str]:
    """The three files that Hydra leaves beside a job, by name."""
    return {
        "config.yaml": OmegaConf.to_yaml(task),
        "hydra.yaml": OmegaConf.to_yaml(hydra),
        "overrides.yaml": OmegaConf.to_yaml(OmegaConf.create(list(overrides))),
    }


def _job_values(typed: _Typed) -> dict[str, str]:
    """What stands in `hydra.yaml` where jobs differ, by what `MARKS` finds there."""
    items = "\n    - ".join(_scalar(text) for text in typed.task)
    return {
        f"\n    - '{MARK_TASK}'": f"\n    - {items}" if typed.task else " []",
        f"'{MARK_DIRNAME}'": _scalar(typed.dirname),
        f"'{MARK_ID}'": _scalar(str(typed.num)),
        f"num: {MARK_NUM}": f"num: {typed.num}",
    }


def _scalar(text: str) -> str:
    dumped = yaml.dump(text, Dumper=_ConfigDumper, default_style='"', width=10**9, allow_unicode=True)
    return str(dumped).rstrip("\n")


class _ConfigDumper(yaml.CSafeDumper):  # type: ignore[misc]
    """YAML as OmegaConf writes it, by libyaml: ten times as fast."""


# OmegaConf reads `1e3` as a number where YAML 1.1 does not: such a text needs quotes.
LIKE_A_NUMBER = re.compile(r"[-+]?(\d[\d_]*)?\.?[\d_]*([eE][-+]?\d+)?")


def _represent_text(dumper: yaml.CSafeDumper, text: str) -> yaml.ScalarNode:
    quoted = LIKE_A_NUMBER.fullmatch(text) is not None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)


_ConfigDumper.add_representer(str, _represent_text)


def _dump(container: Mapping[str, Any]) -> str:
    return str(yaml.dump(container, Dumper=_ConfigDumper, sort_keys=False, allow_unicode=True))


def plain(task: DictConfig) -> dict[str, Any]:
    """A config as plain data, nothing in it resolved."""
    container = OmegaConf.to_container(task, resolve=False, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _texts(key)
            yield from _texts(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _texts(value)
    elif isinstance(node, str):
        yield node


def _may_see_seed(text: str) -> bool:
    """Whether an interpolation may give something else for another seed."""
    resolvers = re.findall(r"\$\{\s*([\w.]+)\s*:", text)
    # `${${name}}` refers to what another value says.
    nested = re.search(r"\$\{[^}:]*\$\{", text) is not None
    return "seed" in text or nested or any(resolver not in PURE_RESOLVERS for resolver in resolvers)


def _enter(whole: DictConfig, typed: _Typed) -> None:
    """Makes `${hydra:…}` answer for this job."""
    hydra: Any = whole.hydra
    with read_write(hydra), open_dict(hydra):
        hydra.job.num = typed.num
        hydra.job.id = str(typed.num)
        hydra.job.override_dirname = typed.dirname
        hydra.overrides.task = typed.task
    HydraConfig.instance().cfg = whole  # type: ignore[assignment]


def expand(arguments: Sequence[str], config_loader: Any, zipped: Sequence[Any] = ()) -> list[tuple[str, ...]]:
    """The override lists of a sweep: the product of all values, the last axis fastest, as Hydra's own sweeper.

    Args:
      arguments: What was typed.
      config_loader: Hydra's, for this program.
      zipped: Groups of keys whose values go together.

    Raises:
      UserError: A kind of sweep that has no list of values (`interval`), or a zip that can't be.
      HydraException: Text that is no override.
    """
    overrides = OverridesParser.create(config_loader=config_loader).parse_overrides(list(arguments))
    axes: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            axes[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise UserError(f"{override.input_line}: an interval has no list of values", f"{key}=range(0,10)")
        if not axes[key]:
            raise ConfigError(key, override.get_value_string(), "the sweep over it has no values", f"{key}=range(0,3)")
    return zip_exclude.combine(axes, zipped)


def _apply(overrides: Sequence[Override], config: DictConfig) -> None:
    # Hydra's own function, under an internal name: a test compares the result with Hydra's over a wide grid.
    ConfigLoaderImpl._apply_overrides_to_config(list(overrides), config)


def is_hydra_error(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf refused what was typed."""
    from omegaconf.errors import OmegaConfBaseException

    return isinstance(error, (HydraException, OmegaConfBaseException))


def explain(error: BaseException) -> UserError:
    """Hydra's refusal as one sentence with what to type, where it is about a name; else in Hydra's words."""
    text = str(error)
    cause = str(error.__cause__ or "")
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, choice = match[1], match[2]
        return _unknown_choice(group, choice, _choices(text))
    if match := re.search(r"Could not override '([^']+)'\.\nTo append to your config use \+(\S+)", text):
        return _unknown_key(match[1], match[2])
    if match := re.search(r"Error merging override (.+)", text):
        reason = cause.splitlines()[0].rstrip(".") if cause else "it does not fit"
        return UserError(f"{match[1]}: {reason}", _default_of(match[1].partition("=")[0]))
    if isinstance(error, OverrideParseException):
        what = " ".join(text.splitlines()[0].split())
        return UserError(f"{error.override}: {what}", "\"KEY='VALUE'\" around a value with blanks, brackets or signs")
    lines = [line.strip() for line in f"{text}\n{cause}".splitlines() if line.strip()]
    return UserError("\n".join(lines[:5]).rstrip("."))


def _unknown_choice(group: str, choice: str, choices: Sequence[str]) -> UserError:
    close = nearest(choice, choices)
    if group == "layer":
        reason = f"no such layer; there are {', '.join(choices)}"
        return UserError(f"layer={choice}: {reason}", f"layer={close or 'custom layer.target=my_pkg.MyLayer'}")
    there = f"; there are {', '.join(choices)}" if choices else ""
    return UserError(f"{group}={choice}: no such choice{there}", f"{group}={close}" if close else None)


def _unknown_key(key: str, override: str) -> UserError:
    value = override.partition("=")[2]
    known = list(serialize.defaults())
    groups = sorted({name.partition(".")[0] for name in known})
    close = _near_open(key) or nearest(key.removeprefix("hydra.sweeper."), [*known, *groups])
    return UserError(f"{key}={value}: no such key", f"{close}={value}" if close else serialize.ALL_KEYS)


def _near_open(key: str) -> str | None:
    """`key` below the node that was meant, where one that takes any key was misspelt."""
    parts = key.split(".")
    for depth in range(1, len(parts)):
        if close := nearest(
            ".".join(parts[:depth]), [name for name in schema.OPEN_NODES if name.count(".") == depth - 1]
        ):
            return ".".join([close, *parts[depth:]])
    return None


def _default_of(key: str) -> str | None:
    default = serialize.defaults().get(key)
    return None if default is None else f"{key}={literal(default.value if isinstance(default, enum.Enum) else default)}"


def _choices(text: str) -> list[str]:
    _, _, rest = text.partition("Available options in")
    return re.findall(r"^\t([^\s=]+)$", rest, flags=re.MULTILINE)
