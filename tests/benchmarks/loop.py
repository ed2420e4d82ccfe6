"""The sweep as a good engineer writes it without us: one process, one jit a program, a Python loop over seeds.

    python tests/benchmarks/loop.py FOLDER --seeds 200 --programs 1 --tracking offline --steps 0

Nothing here imports `runner`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=lambda text: Path(text).absolute())
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--programs", type=int, default=1)
parser.add_argument("--tracking", choices=("offline", "disabled"), default="offline")
parser.add_argument("--steps", type=int, default=0)
args = parser.parse_args()
if args.tracking == "offline":
    import wandb

x = np.random.default_rng(0).normal(size=4).astype(np.float32)
optimizer = optax.adam(0.01)
args.folder.mkdir(parents=True)
with ocp.StandardCheckpointer() as checkpointer:
    for features in range(8, 8 + args.programs):
        model = nnx.bridge.to_linen(nnx.Linear, 4, features)
        init, apply = jax.jit(model.init), jax.jit(model.apply)
        target = apply(init(jax.random.PRNGKey(1), x), x) if args.steps else None

        @jax.jit
        def step(params, state, model=model, target=target):
            loss, grads = jax.value_and_grad(lambda params: ((model.apply(params, x) - target) ** 2).mean())(params)
            updates, state = optimizer.update(grads, state)
            return optax.apply_updates(params, updates), state, loss

        for seed in range(args.seeds):
            variables = init(jax.random.PRNGKey(seed), x)
            losses = []
            if args.steps:
                state = optimizer.init(variables)
            for _ in range(args.steps):
                variables, state, loss = step(variables, state)
                losses.append(loss)
            output = np.asarray(apply(variables, x))  # the first call compiles
            samples_s = []
            for _ in range(10):
                began = time.perf_counter()
                jax.block_until_ready(apply(variables, x))
                samples_s.append(time.perf_counter() - began)
            folder = args.folder / f"features={features},seed={seed}"
            folder.mkdir()
            checkpointer.save(folder / "checkpoint", variables)
            np.save(folder / "output.npy", output)
            numbers = {"apply_s": float(np.median(samples_s)), "output_mean": float(output.mean())}
            numbers["losses"] = [float(loss) for loss in losses]
            (folder / "record.json").write_text(json.dumps({"seed": seed, "features": features, **numbers}))
            if args.tracking == "offline":
                with wandb.init(
                    project="loop",
                    group=args.folder.name,
                    dir=args.folder,
                    mode="offline",
                    config={"layer": "nnx.Linear", "features": features, "seed": seed, "steps": args.steps},
                ) as run:
                    run.log({"apply_s": numbers["apply_s"], "output": wandb.Histogram(output)})
