"""The sweep as a competent user writes it with stock Hydra, Orbax and W&B: what ours is measured against.

Every library is used as its own guide shows it, with its defaults. Nothing here imports `runner`.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import hydra
import jax
import numpy as np
import orbax.checkpoint as ocp
import wandb
from flax.nnx import bridge
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

ROUNDS = 10


def build(cfg: DictConfig) -> tuple[nn.Module, np.ndarray]:
    """Returns the wrapped layer and its input, float32 of shape `input_shape`."""
    x = np.random.default_rng(cfg.seed).normal(size=tuple(cfg.input_shape)).astype(np.float32)
    layer = hydra.utils.get_class(cfg.layer._target_)
    return bridge.to_linen(layer, x.shape[-1], cfg.features), x


def time_apply(model: nn.Module, variables: Any, x: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Returns the output and `ROUNDS` durations in seconds; the call that compiles comes before them."""
    apply = jax.jit(model.apply)
    output = apply(variables, x).block_until_ready()
    samples_s = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        apply(variables, x).block_until_ready()
        samples_s.append(time.perf_counter() - start)
    return np.asarray(output), samples_s


def save_checkpoint(folder: Path, variables: Any) -> None:
    """Writes the variables under `folder` and returns when they are on disk."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, variables)
        checkpointer.wait_until_finished()


def digest(array: Any) -> str:
    """Returns the SHA-256 of the array's bytes."""
    return hashlib.sha256(np.asarray(array).tobytes()).hexdigest()


def log_run(
    cfg: DictConfig, folder: Path, summary: dict[str, float], output: np.ndarray, samples_s: list[float]
) -> None:
    """Leaves one W&B run in the job's folder: numbers, two histograms, the output as a table, the checkpoint."""
    run = wandb.init(
        project="plain",
        group=folder.parent.name,
        dir=folder,
        config=OmegaConf.to_container(cfg, resolve=True),
        mode=cfg.tracking,
    )
    rows = [[str(index), float(value)] for index, value in np.ndenumerate(output)]
    media = {
        "samples_s": wandb.Histogram(samples_s),
        "output/histogram": wandb.Histogram(output),
        "output/table": wandb.Table(columns=["index", "value"], data=rows),
    }
    run.log(summary | media)
    if cfg.checkpoint:
        artifact = wandb.Artifact(f"checkpoint-{run.id}", type="checkpoint")
        artifact.add_reference((folder / "checkpoint").as_uri())
        run.log_artifact(artifact)
    run.finish()


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """Runs one config and leaves record.json, output.npy, checkpoint/ and a W&B run in Hydra's job folder."""
    folder = Path(HydraConfig.get().runtime.output_dir).absolute()
    model, x = build(cfg)
    variables = model.init(jax.random.PRNGKey(cfg.seed), x)
    output, samples_s = time_apply(model, variables, x)
    if cfg.checkpoint:
        save_checkpoint(folder / "checkpoint", variables)
    summary = {"apply_s": float(np.median(samples_s)), "output_mean": float(output.mean())}
    log_run(cfg, folder, summary, output, samples_s)
    np.save(folder / "output.npy", output)
    leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
    record = {
        "settings": OmegaConf.to_container(cfg, resolve=True),
        "samples_s": samples_s,
        "digests": {jax.tree_util.keystr(path): digest(leaf) for path, leaf in leaves} | {"output": digest(output)},
        **summary,
    }
    (folder / "record.json").write_text(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
