"""What a sweep can't do without, on all cores: compiling, a tuned Orbax save and a lean W&B run a run; vmap to train.

    python tests/benchmarks/limit.py FOLDER --seeds 200 --programs 1 --tracking offline --steps 0

Takes the words of loop.py and leaves what it leaves, but that nothing is applied, timed or compared. Nothing here
imports `runner`.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

LEAN = {"silent": True, "quiet": True, "console": "off", "disable_git": True, "save_code": False, "symlink": False}
LEAN |= {"x_disable_stats": True, "x_disable_meta": True, "x_save_requirements": False}
X = np.ones(4, np.float32)


@functools.cache
def checkpointer():
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False))


def compiled(features):
    """Compiles init and apply of a program, as each must be once."""
    model = nnx.bridge.to_linen(nnx.Linear, 4, features)
    key = jax.random.PRNGKey(0)
    variables = jax.eval_shape(model.init, key, X)
    jax.jit(model.init).lower(key, X).compile(), jax.jit(model.apply).lower(variables, X).compile()


def leave(root, tracking, features, seed, variables):
    """Saves a run, and logs it."""
    folder = root / f"features={features},seed={seed}"
    folder.mkdir()
    checkpointer().save(folder / "checkpoint", variables)
    np.save(folder / "output.npy", np.zeros(features, np.float32))
    (folder / "record.json").write_text(json.dumps({"seed": seed, "features": features}))
    if tracking == "offline":
        import wandb

        settings = wandb.Settings(**LEAN)
        run = wandb.init(mode="offline", dir=root, reinit="create_new", config={"seed": seed}, settings=settings)
        run.log({"norm": 1.0})
        run.finish()


def trained(features, seeds, steps):
    """The variables of all seeds, trained together: one program, vmap over seeds and scan over steps."""
    model = nnx.bridge.to_linen(nnx.Linear, 4, features)
    optimizer = optax.adam(0.01)

    def alone(key):
        target = model.apply(model.init(jax.random.PRNGKey(1), X), X)

        def step(state, _):
            variables, optimizer_state = state
            loss, grads = jax.value_and_grad(lambda params: ((model.apply(params, X) - target) ** 2).mean())(variables)
            updates, optimizer_state = optimizer.update(grads, optimizer_state)
            return (optax.apply_updates(variables, updates), optimizer_state), loss

        variables = model.init(key, X)
        (variables, _), losses = jax.lax.scan(step, (variables, optimizer.init(variables)), length=steps)
        return variables, losses

    variables, _ = jax.jit(jax.vmap(alone))(jax.vmap(jax.random.PRNGKey)(jnp.arange(seeds)))
    variables = jax.tree.map(np.asarray, variables)
    return [jax.tree.map(lambda leaf, seed=seed: leaf[seed], variables) for seed in range(seeds)]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=lambda text: Path(text).absolute())
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--programs", type=int, default=1)
    parser.add_argument("--tracking", choices=("offline", "disabled"), default="offline")
    parser.add_argument("--steps", type=int, default=0)
    args = parser.parse_args()
    args.folder.mkdir(parents=True)
    programs = range(8, 8 + args.programs)
    cores = len(os.sched_getaffinity(0))
    if args.tracking == "offline":
        import wandb  # noqa: F401 - before the fork, for all
    # Forked before JAX has threads, so that nothing is imported twice.
    with multiprocessing.get_context("fork").Pool(min(cores, args.seeds * args.programs)) as pool:
        if args.steps:
            saved = {features: trained(features, args.seeds, args.steps) for features in programs}
        else:
            pool.map(compiled, programs, chunksize=1)
            zeros = {n: {"params": {"kernel": np.zeros((4, n), "f4"), "bias": np.zeros(n, "f4")}} for n in programs}
            saved = {features: [zeros[features]] * args.seeds for features in programs}
        runs = [(args.folder, args.tracking, n, seed, tree) for n in programs for seed, tree in enumerate(saved[n])]
        pool.starmap(leave, runs, chunksize=1)


if __name__ == "__main__":
    main()
