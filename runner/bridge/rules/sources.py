"""Reads rules from a file, from a function of the pipeline's, or from Python."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import yaml

from runner.bridge import targets
from runner.bridge.rules import patterns
from runner.bridge.rules.patterns import Rule, RuleList
from runner.config.enums import RuleMatch
from runner.config.settings.rules import RulesSettings
from runner.errors import ConfigError, LayerError, nearest, no_exit
from runner.records.disk import plain_files

KINDS = ("partition", "weight_decay", "freeze")
VALUES: Mapping[str, Callable[[Any], Any]] = {
    "partition": patterns.partition_value,
    "weight_decay": patterns.decay_value,
    "freeze": patterns.freeze_value,
}
SUFFIXES = (".yaml", ".yml", ".json", ".txt")

# Rules that mean nothing, of the form that a file's lines have too.
SUGGESTED = {
    "partition": "rules.partition=\"['.*: null']\"",
    "weight_decay": "rules.weight_decay=\"['kernel: 1','.*: 0']\"",
    "freeze": "rules.freeze=\"['kernel: true','.*: false']\"",
}

# A function from params to a tree of booleans, as `optax.masked` takes it.
Mask = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True)
class PathRules:
    """All rules by path of one pipeline.

    Attributes:
      partition: Where each leaf goes on a mesh; None where it was not given.
      weight_decay: Which leaves get weight decay.
      freeze: Which leaves the optimiser leaves as they are.
      fullmatch: Whether a regex has to match all of a path.
    """

    partition: RuleList | None = None
    weight_decay: RuleList | Mask | None = None
    freeze: RuleList | Mask | None = None
    fullmatch: bool = False

    @property
    def masks(self) -> dict[str, RuleList | Mask]:
        """The masks that were given."""
        found = {"weight_decay": self.weight_decay, "freeze": self.freeze}
        return {name: mask for name, mask in found.items() if mask is not None}


def path_rules(settings: RulesSettings) -> PathRules | None:
    """The rules that `settings` name; None if they name none.

    A file may have them all: `partition`, `weight_decay`, `freeze` and `match` as its only keys.

    Raises:
      ConfigError: A source can't be read, or holds no rules.
    """
    given = {kind: getattr(settings, kind) for kind in KINDS if getattr(settings, kind) is not None}
    found = {kind: _found(kind, source) for kind, source in given.items()}
    whole = found.get("partition")
    if _has_sections(whole):
        return path_rules(_sections(settings, whole))
    if not found:
        return None
    made: dict[str, Any] = {kind: _made(kind, given[kind], found[kind], settings.match) for kind in found}
    return PathRules(**made, fullmatch=settings.match is not RuleMatch.search)


def named_functions(settings: RulesSettings) -> list[str]:
    """The functions that `path_rules` would import and call, as they are written; none of them is imported."""
    named: list[str] = []
    for kind in KINDS:
        source = getattr(settings, kind)
        if not isinstance(source, str):
            continue
        if not _is_file(source):
            named.append(source)
            continue
        with contextlib.suppress(ConfigError):  # there is nothing to run; reading the rules reports it
            whole = _found(kind, source)
            if kind == "partition" and _has_sections(whole):
                named += named_functions(_sections(settings, whole))
    return named


def given_rules(rules: Any) -> PathRules | None:
    """Rules as Python gives them: a source, a sequence of pairs, a function, or a mapping of the kinds.

    Raises:
      ConfigError: A source can't be read, or holds no rules.
    """
    if rules is None or isinstance(rules, PathRules):
        return rules
    if isinstance(rules, RulesSettings):
        return path_rules(rules)
    if _has_sections(rules):
        return path_rules(_sections(RulesSettings(), rules))
    return path_rules(RulesSettings(partition=rules))


def _has_sections(found: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether a file or a dict has the kinds of rules as its only keys."""
    return isinstance(found, Mapping) and bool(found) and set(found) <= {*KINDS, "match"}


def _is_file(source: str) -> bool:
    return os.path.isfile(os.path.expanduser(source)) or source.endswith(SUFFIXES) or "/" in source


def _sections(settings: RulesSettings, whole: Mapping[str, Any]) -> RulesSettings:
    """`settings` with what a file or a dict says under the names of the kinds; what was typed wins."""
    match = whole.get("match", settings.match)
    if str(getattr(match, "value", match)) not in RuleMatch.__members__:
        raise ConfigError("rules.match", match, "search, fullmatch or override", "rules.match=search")
    typed = {kind: getattr(settings, kind) for kind in KINDS[1:] if getattr(settings, kind) is not None}
    kinds = {kind: whole.get(kind) for kind in KINDS} | typed
    return dataclasses.replace(settings, **kinds, match=RuleMatch(getattr(match, "value", match)))


def _made(kind: str, source: Any, found: Any, match: RuleMatch) -> RuleList | Mask:
    if kind != "partition" and callable(found):
        return found
    try:
        rules = [Rule(pattern=key, value=VALUES[kind](value)) for key, value in patterns.pairs_of(found)]
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise _refused(kind, source, " ".join(str(error).split())) from error
    if not rules:
        raise _refused(kind, source, "there is no rule in it")
    overrides = kind == "partition" and match is RuleMatch.override
    return RuleList(rules=tuple(rules), fullmatch=match is not RuleMatch.search, overrides=overrides)


def _found(kind: str, source: Any) -> Any:
    """What a source holds, as it is."""
    if callable(source):
        return _called(kind, source, source)
    if isinstance(source, (list, tuple)):
        return [_of_line(item) if isinstance(item, str) else item for item in source]
    if not isinstance(source, str):
        return source
    if _is_file(source):
        return _of_file(kind, Path(os.path.expanduser(source)))
    return _of_function(kind, source)


def _of_file(kind: str, path: Path) -> Any:
    try:
        text = plain_files.read_bytes(path).decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = f"it can't be read: {getattr(error, 'strerror', None) or error}"
        raise _refused(kind, str(path), reason, _near_file(kind, path)) from error
    try:
        if path.suffix == ".json":
            return json.loads(text)
        return _of_yaml(text) if path.suffix in (".yaml", ".yml") else _of_lines(text)
    except (ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        hint = "; a regex that begins with * or [ needs quotes" if path.suffix in (".yaml", ".yml") else ""
        raise _refused(kind, str(path), f"{reason}{hint}") from error


def _near_file(kind: str, path: Path) -> str | None:
    """A file of rules next to `path` that may have been meant."""
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    close = nearest(path.name, [one.name for one in there if one.suffix in SUFFIXES and one != path])
    return f"rules.{kind}={path.parent / close}" if close else None


def _of_yaml(text: str) -> Any:
    """A mapping as pairs, since the same regex may be there twice."""
    loader = yaml.SafeLoader(text)
    node = loader.get_single_node()
    if node is None:
        return []
    built = loader.construct_document(node)
    if not isinstance(node, yaml.MappingNode) or set(built) <= {*KINDS, "match"}:
        return built
    return [(key.value, loader.construct_document(value)) for key, value in node.value]


def _of_lines(text: str) -> list[Any]:
    lines = [line.strip() for line in text.splitlines()]
    return [_of_line(line) for line in lines if line and not line.startswith("#")]


def _of_line(line: str) -> Any:
    pattern, colon, value = line.rpartition(": ")
    return (pattern.strip(), value.strip()) if colon else line


def _of_function(kind: str, source: str) -> Any:
    path, parenthesis, _ = source.partition("(")
    try:
        found = targets.import_path(path, key=f"rules.{kind}")
        if not parenthesis:
            return _called(kind, source, found) if callable(found) else found
        node = ast.parse(f"f{source[len(path) :]}", mode="eval").body
        if not isinstance(node, ast.Call):
            raise ValueError
        arguments = [ast.literal_eval(item) for item in node.args]
        kwargs = {str(item.arg): ast.literal_eval(item.value) for item in node.keywords}
    except LayerError as error:
        reason = "it is neither a file nor a function that can be imported: " + error.what.partition(": ")[2]
        close = error.suggestion if (error.suggestion or "").startswith("rules.") else None
        raise _refused(kind, source, reason, close) from error
    except (SyntaxError, ValueError) as error:
        raise _refused(kind, source, "the arguments of a function are literals") from error
    return _run(kind, source, lambda: found(*arguments, **kwargs))


def _called(kind: str, source: Any, function: Any) -> Any:
    """What a function without arguments gives; a function that takes params is a mask itself."""
    try:
        taken = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        taken = []
    stars = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [one for one in taken if one.default is one.empty and one.kind not in stars]
    if kind != "partition" and len(required) == 1:
        return function
    return _run(kind, source, function)


def _run(kind: str, source: Any, function: Callable[[], Any]) -> Any:
    try:
        with no_exit():
            return function()
    except Exception as error:
        raise _refused(kind, source, f"it raises {type(error).__name__}: {error}") from error


def _refused(kind: str, source: Any, reason: str, close: str | None = None) -> ConfigError:
    said = source if isinstance(source, (str, list)) else getattr(source, "__qualname__", repr(source))
    return ConfigError(f"rules.{kind}", said, reason, close or SUGGESTED[kind])
