"""T5X's whole trainer, `t5x.train.train`, on a seqio task of ours; Flaxformer is trained by it too."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.pipelines.compared import require_equal_bits

# What it needs besides T5X's own needs; two further packages that T5X imports are not to be had, or not called.
WANTED = ("tensorflow", "seqio", "clu", "gin", "fiddle")
STOOD_IN = ("airio", "jestimator")

STEPS = 3
LENGTH = 6

# Gives T5X's module; what it patches is patched while the module is built.
Host = Callable[[], AbstractContextManager[Any]]


def missing() -> str:
    """Why it can't be run here; empty where it can."""
    absent = [name for name in WANTED if importlib.util.find_spec(name) is None]
    return f"t5x.train.train wants {', '.join(absent)}: not installed here" if absent else ""


def proved(old: Host, new: Host, folder: Path) -> str:
    """The evidence: both modules, trained on from a checkpoint of the old one, end with the same bits.

    Raises:
      AssertionError: They do not.
    """
    _train(old, folder / "old", STEPS)
    ends = []
    for name, host in {"again": old, "new": new}.items():
        shutil.copytree(folder / "old", folder / name)  # a trainer goes on from what lies in its folder
        ends.append(_train(host, folder / name, 2 * STEPS))
    num = require_equal_bits(ends[0].params, ends[1].params)
    require_equal_bits(ends[0].param_states, ends[1].param_states)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("seqio", "tensorflow"))
    return (
        f"t5x.train.train on a seqio task of ours goes on from its checkpoint_{STEPS} for {STEPS} steps, with the "
        f"layer and without: all {num} params and the Adafactor slots have the same bits ({versions})"
    )


def _train(host: Host, folder: Path, steps: int) -> Any:
    """The train state at step `steps`."""
    from t5x import adafactor, models, partitioning, train, trainer, utils

    rate = utils.create_learning_rate_scheduler(factors="constant", base_learning_rate=1e-3, warmup_steps=1)
    optimizer = adafactor.Adafactor(1e-3, logical_factor_rules=adafactor.standard_logical_factor_rules())
    save = utils.SaveCheckpointConfig(period=STEPS, dtype="float32", keep=None)
    with host() as module:
        step, state = train.train(
            model=models.EncoderDecoderModel(module, _vocabulary(), _vocabulary(), optimizer),
            train_dataset_cfg=utils.DatasetConfig(
                _task(), {"inputs": LENGTH, "targets": LENGTH}, "train", batch_size=4, shuffle=False, seed=0, pack=False
            ),
            train_eval_dataset_cfg=None,
            infer_eval_dataset_cfg=None,
            checkpoint_cfg=utils.CheckpointConfig(save=save, restore=None),
            partitioner=partitioning.PjitPartitioner(num_partitions=1),
            trainer_cls=functools.partial(trainer.Trainer, learning_rate_fn=rate, num_microbatches=None),
            model_dir=str(folder),
            total_steps=steps,
            eval_steps=0,
            eval_period=0,
            stats_period=STEPS,
            random_seed=0,
            summarize_config_fn=lambda *_: None,
            use_orbax=False,
            verify_matching_vocabs_fn=None,
        )
    assert step == steps, step
    return state


@functools.cache
def _vocabulary() -> Any:
    import seqio

    return seqio.PassThroughVocabulary(64)


@functools.cache
def _task() -> str:
    """The name of a task of 16 examples."""
    import numpy as np
    import seqio
    import tensorflow as tf

    def examples(split: str, shuffle_files: bool = False, seed: int | None = None) -> Any:
        drawn = np.random.default_rng(0).integers(1, 64, size=(16, 2, LENGTH)).astype("int32")
        return tf.data.Dataset.from_tensor_slices({"inputs": drawn[:, 0], "targets": drawn[:, 1]})

    features = {name: seqio.Feature(_vocabulary(), add_eos=False) for name in ("inputs", "targets")}
    source = seqio.FunctionDataSource(examples, splits=["train"])
    seqio.TaskRegistry.add("ours", source=source, preprocessors=[], output_features=features, metric_fns=[])
    return "ours"
