"""What the suite's own configs are made by (`tests/support/composed_once.py`) changes none of them."""

from __future__ import annotations

import hydra
import pytest
from composed_once import composed_each_time, composed_once
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from runner.config import conf_folder, schema


@pytest.fixture
def compose(equal_configs_composed_once):
    schema.register()
    setup_globals()

    def text(*overrides):
        with hydra.initialize_config_dir(str(conf_folder.config_dir()), version_base="1.3"):
            try:
                config = GlobalHydra.instance().config_loader().load_configuration("config", overrides, RunMode.RUN)
            except HydraException as error:
                return str(error)
        del config.hydra.runtime.cwd
        return OmegaConf.to_yaml(config)

    return text


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("before", "overrides"),
    [
        (("layer=mlp", "seed=3"), ("layer=mlp", "features=7", "+layer.kwargs.a=[1]", "hydra.run.dir=x")),
        (("seed=0",), ("seed=zero", "~train")),
        (("layer=mlp",), ("layer=mpl",)),
        (("+experiment=width", "seed=1"), ("+experiment=width", "seed=2")),
        (("~layer",), ("~layer", "~train.steps")),
        (("input=file",), ("input={name: normal}", "seed=1")),
    ],
    ids=lambda words: " ".join(words),
)
def test_remembered_files_compose_equal_configs(compose, before, overrides):
    with composed_each_time():
        wanted = compose(*overrides)
    with composed_once():
        compose(*before)
        assert compose(*overrides) == wanted
        assert compose(*overrides) == wanted
