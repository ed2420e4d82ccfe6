"""Runs a sweep from Python, as the command line does: `runner.sweep(seed=range(3), features=[8, 16])`."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.config import conf_folder, schema
from runner.config.settings import rules as rules_settings
from runner.errors import UserError
from runner.launch import axes
from runner.launch.application import EXIT_INTERRUPTED, Application
from runner.report import frame

if TYPE_CHECKING:
    from runner.records.row import Row
    from runner.report.frame import Results

# Libraries that a sweep stops from logging what they also raise.
QUIETED = ("absl", "concurrent.futures", "jax._src.callback")


def sweep(
    *,
    layer: Any = None,
    seed: Any = None,
    input_shape: Any = None,
    features: Any = None,
    device: Any = None,
    overrides: Mapping[str, Any] | None = None,
    **more: Any,
) -> Results:
    """Runs a sweep in this process and returns its results, as `bridge-runner -m …` and `runner.load` would.

    A list, range or array is an axis, and the sweep is the product of all axes:

        runner.sweep(layer="linear", seed=range(3), input_shape=[[4], [16]], overrides={"layer.kwargs.use_bias": False})

    Repeating the call runs only what is missing. Prints progress and a table. What JAX allows to be set only once per
    process (`process.num_cpu_devices`, the cache) stays set; everything else is as before. After Ctrl-C the current run
    ends, what is done is kept, and KeyboardInterrupt is raised.

    Args:
      layer: Name of a layer in conf/layer, `linear`; `custom` with `{"layer.target": "my_pkg.MyLayer"}`.
      seed: The Linen init key is `jax.random.PRNGKey(seed)`.
      input_shape: Shape of x, `[4]` or `(8, 4)`; its last axis is the layer's in_features. A list of shapes is an axis.
      features: The layer's out_features.
      device: cpu, gpu, tpu or auto, or with an index: `cpu:1`.
      overrides: Any other key or group by its dotted name: `{"layer.kwargs.hidden": [32, 64], "+experiment": "width"}`.
        A tuple is one value that is a list.
      **more: Any other key or group of conf/config.yaml: `timing="careful"`, `sweep="name"`, `tracking="disabled"`.

    Returns:
      The results: `.frame`, a row a run with times in seconds (`_s`) and sizes in bytes (`_bytes`); `.by("features")`,
      `.output(run)`, `.record(run)`. A run that failed is in them, with its error; it does not raise.

    Raises:
      UserError: A config can't run: the message says what to write instead; nothing was run or written. Or pandas is
        not installed.
      KeyboardInterrupt: Ctrl-C.
    """
    frame.require_pandas()
    named = {"layer": layer, "seed": seed, "input_shape": input_shape, "features": features, "device": device}
    typed = {key: value for key, value in named.items() if value is not None} | more
    for key in overrides or {}:
        if key in typed:
            raise UserError(f"{key} is given twice, as a keyword and in overrides", f"overrides={{{key!r}: …}} alone")
    typed |= dict(overrides or {})
    if typed.get("hydra/sweeper") == "basic":
        raise UserError("hydra/sweeper=basic leaves several sweeps, and runner.sweep gives one", "no hydra/sweeper")
    application = _Placed(["-m", *rules_settings.as_overrides(axes.to_overrides(typed))])
    with _process_as_before():
        _multirun(application)
    if application.exit_code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    return frame.load(application.folder)


class _Placed(Application):
    """An application that remembers its sweep's folder."""

    def __init__(self, words: Sequence[str]) -> None:
        super().__init__(words)
        self.words = list(words)
        self.folder = Path()

    def sweep(self, configs: Sequence[Any], place: Callable[[str], Path], *given: Any, **known: Any) -> Sequence[Row]:
        """As the application does, which asks `place` for the folder."""

        def placed(name: str) -> Path:
            self.folder = place(name)
            return self.folder

        return super().sweep(configs, placed, *given, **known)


def _multirun(application: _Placed) -> None:
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from runner.config.explain import explain, is_hydra_error

    schema.register()
    try:
        with initialize_config_dir(str(conf_folder.config_dir()), job_name="bridge-runner", version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            hydra.multirun("config", application, application.words[1:], with_log_configuration=False)
    except UserError:
        raise
    except Exception as error:
        if not is_hydra_error(error):
            raise
        raise explain(error) from error


@contextlib.contextmanager
def _process_as_before() -> Iterator[None]:
    """Restores the process state that a command line may change; meanwhile adds the working directory to `sys.path`."""
    environment, path, hook = dict(os.environ), list(sys.path), sys.unraisablehook
    levels = {name: logging.getLogger(name).level for name in QUIETED}
    plugins = Path(__file__).parent / "plugins"  # of a checkout that is not installed
    sys.path += [folder for folder in (os.getcwd(), str(plugins)) if folder not in path and os.path.isdir(folder)]
    try:
        with _hydra_of_its_own(), _main_not_run_again():
            yield
    finally:
        sys.path[:] = path
        sys.unraisablehook = hook
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@contextlib.contextmanager
def _hydra_of_its_own() -> Iterator[None]:
    """Hydra as in a new process, even inside another Hydra app."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobRuntime
    from hydra.version import VersionBase

    kinds = (GlobalHydra, HydraConfig, JobRuntime, VersionBase)
    before: dict[type, Any] = {kind: Singleton._instances.pop(kind) for kind in kinds if kind in Singleton._instances}
    try:
        yield
    finally:
        for kind in kinds:
            Singleton._instances.pop(kind, None)
        Singleton._instances.update(before)


@contextlib.contextmanager
def _main_not_run_again() -> Iterator[None]:
    """Stops multiprocessing children from re-importing the caller's script, which calls `sweep` at the top level."""
    main = sys.modules["__main__"]
    before: dict[str, Any] = {name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)}
    vars(main).pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        del main.__spec__
        vars(main).update(before)
