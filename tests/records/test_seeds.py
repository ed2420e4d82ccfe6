"""The seed's story: what `show` prints gives the same values natively."""

from __future__ import annotations

import flax
import jax
import numpy as np
import pytest
import sized_layers
from flax import nnx
from flax.core.scope import LazyRng

from runner.arrays import trees
from runner.bridge import rngs
from runner.commands import main
from runner.records import seeds, store
from runner.records.paths import RunFolder


@pytest.mark.parametrize("separated", [False, True])
@pytest.mark.parametrize("path", [(), ("layer",), ("Dense_1", "inner")])
def test_path_streams_equal_the_flax_ones(path, separated):
    key = jax.random.PRNGKey(3)
    mine = jax.random.fold_in(key, seeds.stream_number(path, separated=separated))
    with flax.config.temp_flip_flag("fix_rng_separator", separated):
        assert (mine == LazyRng.create(key, *path, 1).as_jax_rng()).all()


def test_stories_under_hosts_state_conditions():
    layer = {"target": "flax.nnx.Linear", "kwargs": {}}
    hosted = {"target": "my_hosts.Host", "layer_name": "layer"}
    leaves = [{"path": ["params", "layer", "kernel"]}]
    record = {"settings": {"seed": 0, "layer": layer, "host": hosted}, "streams": ["params"], "variables": leaves}
    record["takes_rngs"] = "rngs={rngs}"
    assert all(line in seeds.story(record) for line in seeds.UNDER_A_HOST)
    assert not set(seeds.UNDER_A_HOST) & set(seeds.story(record | {"settings": record["settings"] | {"host": None}}))


# By the names that the story gives them.
MADE = {"dropout": rngs.apply_keys, "init": rngs.init_keys}


def test_stories_name_the_keys_of_both_calls():
    layer = {"target": "flax.nnx.Dropout", "kwargs": {"rate": 0.5}}
    record = {"settings": {"seed": 3, "layer": layer}, "streams": ["params", "dropout"], "variables": []}
    root, line, *_ = seeds.story(record | {"takes_rngs": "rngs={rngs}"})
    of_apply, _, of_init = line.partition("  # init: ")
    scope = {"jax": jax}
    exec(f"{root}\n{of_apply}\ninit = jax.random.fold_in(key, {of_init})", scope)
    given = {name: make(scope["key"], ["params", "dropout"])["dropout"] for name, make in MADE.items()}
    assert all((scope[name] == key).all() for name, key in given.items())


LAYERS = ["linear", "mlp", "sequential", "batch_norm", "dropout", "prelu"]
CUSTOM = [f"custom layer.target=sized_layers.{name}" for name in ("Rng", "Annotated", "Keyed")]


@pytest.mark.slow
@pytest.mark.parametrize("layer", [*LAYERS, *CUSTOM])
def test_printed_code_reproduces_the_saved_values(layer, tmp_path, capsys):
    words = [
        *f"layer={layer}".split(),
        "seed=7",
        f"output_root={tmp_path}",
        "sweep=s",
        "tracking=disabled",
        "timing=off",
    ]
    assert main.main(words) == 0
    (path,) = (tmp_path / "s" / "runs").iterdir()
    capsys.readouterr()
    assert main.main(["show", str(path)]) == 0
    code = capsys.readouterr().out.partition("seed (the same values natively)\n")[2].partition("\n\n")[0]
    scope = {
        "jax": jax,
        "nnx": nnx,
        "flax": flax,
        "sized_layers": sized_layers,
        "runner": __import__("runner.bridge.layers.blocks"),
        "relu": nnx.relu,
    }
    exec(
        "\n".join(line.strip() for line in code.splitlines()).replace("'relu'", "relu").replace("'gelu'", "nnx.gelu"),
        scope,
    )
    record = store.read_record(RunFolder(path))
    state = nnx.state(scope["layer"], nnx.Not(nnx.RngState))
    native = {"/".join(map(str, path)): np.asarray(leaf.get_value()) for path, leaf in nnx.to_flat_state(state)}
    assert {"/".join(map(str, leaf.path[1:])): leaf.digest for leaf in record.variables} == {
        name: trees.array_digest(array) for name, array in native.items()
    }


@pytest.mark.parametrize(
    ("path", "layer", "shown"),
    [
        (["params", "layers", 0, "kernel"], [], "layers[0].kernel"),
        (["params", "layer", "kernel"], ["layer"], "kernel"),
        (["params", "Dense_0", "kernel"], ["layer"], "–"),
    ],
)
def test_a_leaf_has_its_native_name(path, layer, shown):
    assert seeds.nnx_path(path, layer) == shown
