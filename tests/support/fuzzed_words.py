"""Command lines that somebody might type, most of them wrong: keys, values, flags and paths put together at random."""

from __future__ import annotations

import os
import random
from pathlib import Path

from bounded_calls import COMPLETE, RUN

from runner.commands.typed import verb
from runner.config import serialize


def _words(text: str) -> list[str]:
    return text.split()


LEAN = ("tracking=disabled", "timing=off", "checks=off")

# Refused by every verb that takes overrides, whatever else is typed.
REFUSED = ("seeed=1", "layer=nope", "train.steps=x", "input_shape=a", "layer.nope=1", "input=b", "train.steps=[1]")

NUMBERS = _words("-1 0 1 2 nan inf -inf 1e400 99999999999 99999999999999999999999 4.5 1e3 0x10 007 1_000")
LISTS = _words("[ ] { } {} [] [[]] [4] [0] [-1] [4,-4] [1.5] [null] [a] [4,8] [[4],[8]] {a:1} {a:{b:c}} a,b a,,b ,")
QUOTES = ["", "'", '"', "'a b'", "a b", "\\", "\\n", "#a", "a#b", "a=b", "=", "@", "a@b", "%s", "{0}", "a\nb", "~"]
DOLLARS = ["$", "${a}", "${seed}", "${oc.env:NOPE}", "${oc.env:HOME}", "${oc.decode:x}", "${", "???"]
SWEEPS = _words(
    "range(3) range(0,1e9) range(1,0) glob(*) choice(1,2) interval(0,1) tag(a,1,2) shuffle(1,2) sort(3,1) int(3.5) "
    "float(a) str(1) bool(x) json_str(a) extend_list(1)"
)
TEXTS = ["ü", "\udce9", "\x1b[31m", "x" * 3000]
NAMES = _words(
    "null true false TRUE float32 bfloat16 int4 complex64 str object params flax.nnx.Linear os.system os flax.nnx "
    "nope.Nope mod_syntax.A mod_raises.A mod_null.A builtins.int . a. ..a flax..nnx runner runner.commands.main.main "
    "best:3 best:-1 all last jax cpu cpu:99 cpu:-1 cpu:x gpu tpu auto cpu: min max mlp conv none custom adam sgd"
)
FILES = ["/dev/zero", "/dev/null", "fifo", "dir", "file.txt", "empty", "latin.yaml", "cfg.yaml", "rules.yaml"]
VALUES = [*NUMBERS, *LISTS, *QUOTES, *DOLLARS, *SWEEPS, *TEXTS, *NAMES, *FILES]

KEYS = _words(
    "layer host input timing checks checkpoint tracking train experiment debug pipeline mesh hydra/launcher "
    "hydra/sweeper hydra/job_logging hydra.run.dir hydra.sweep.dir hydra.sweep.subdir hydra.job.name hydra.job.chdir "
    "hydra.verbose hydra.output_subdir hydra.launcher.n_jobs hydra.sweeper.params hydra.searchpath hydra.mode "
    "hydra.env hydra.help hydra.callbacks layer.kwargs layer.kwargs.features layer.kwargs.use_bias layer.call "
    "layer.call.a host.call.a host.kwargs.a layer.kwargs.in_features rules seeed a a.b.c layer. layer..target . +x ++x "
    "~layer ~x ~seed +layer.kwargs.z variables input.more.m process grid failure search axis optuna "
    "hydra.sweeper.n_trials layer@a layer@layer"
)
# Whatever their number, a run makes the steps, rounds or workers that it is asked for.
LONG = ("train.steps", "timing.rounds", "timing.warmup", "search.n_jobs")

FLAGS = _words(
    "-m --multirun --cfg --info --hydra-help --help -h --resolve --package -p --config-name -cn --config-dir -cd "
    "--config-path -cp --experimental-rerun --run -r --version -c --json --trust -- - --nope -x --cfg=job --cfg=hydra "
    "--cfg=all --info=all --info=config --config-dir=cd --config-dir=nope --config-dir=file.txt --config-name=nope "
    "--config-name=latin"
)

PLACES = [
    *("outputs", "outputs/s", "outputs/s/0", "outputs/s/9", "outputs/s/journal.jsonl", "outputs/s/sweep.json"),
    *("outputs/s/runs", "outputs/s#a", "outputs/*", "nope", "file.txt", "dir", "empty", "", "..", ".", "fifo", "~"),
    *("~ghost", "x" * 300, "a\nb", "\udce9", "ü", "a\0b", "-", "--", "*", "[", "file.txt/x", "file.txt#params", "s"),
    *("t", "gs://b/x", "http://x", "linear", "layer=mlp", "host=mlp"),
]
# Only read: no line names a place outside of the folder to write to.
OUTSIDE = ["/", "/dev/null", "/dev/zero", "/proc/self/mem", "/proc/1/root", "/root"]


def plant(folder: Path) -> None:
    """Makes the files that the words name."""
    for name, content in {
        "file.txt": b"hello",
        "empty": b"",
        "latin.yaml": b"a: \xe9\n",
        "cfg.yaml": b"seed: 3\n",
        "rules.yaml": b"- a\n",
        "mod_syntax.py": b"def f(:\n",
        "mod_raises.py": b"raise RuntimeError('x')\n",
        "mod_null.py": b"a=1\0\n",
        "cd/layer/bad.yaml": b"target: \xe9\xe9\n",
        "cd/layer/lst.yaml": b"- a\n- b\n",
        "cd/layer/syn.yaml": b"a: [b\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "dir").mkdir()
    os.mkfifo(folder / "fifo")


class Words:
    """Draws command lines.

    Args:
      seed: Of the draws.
      runs: Paths of runs, and of files in them.
    """

    def __init__(self, seed: int, runs: list[str]) -> None:
        self._chance = random.Random(seed)
        self._places = [*PLACES, *runs]
        self._values = [*VALUES, *runs]
        self._keys = [key for key in (*serialize.defaults(), *KEYS) if key not in LONG]

    def draw(self) -> tuple[str, list[str]]:
        """A verb, `RUN` or `COMPLETE`, and the command line."""
        kind = self._chance.random()
        if kind < 0.25:
            return RUN, [*self._overrides(), *LEAN]
        name = self._chance.choice(list(verb.VERBS))
        if kind < 0.3:
            known = [*self._keys, *self._values, *FLAGS, *self._places]
            return COMPLETE, [COMPLETE, "--", name, *self._chance.choices(known, k=self._chance.randrange(4))]
        return name, [name, *self._words_of(name)]

    def _words_of(self, name: str) -> list[str]:
        chance, found = self._chance, verb.load(name)
        parser = found.parser()
        words = [chance.choice([*self._places, *OUTSIDE]) for _ in parser.positionals()]
        if words and chance.random() < 0.1:
            words.pop()
        if chance.random() < 0.1:
            words.append(chance.choice(self._places))
        counts = parser.value_counts()
        for flag in chance.choices(list(counts), k=chance.choice([0, 0, 1, 1, 2, 3])):
            words.append(flag)
            if counts[flag] and chance.random() < 0.95:
                named = parser.values(flag)
                words.append(chance.choice(named if named and chance.random() < 0.5 else self._values + self._places))
        if found.takes_overrides:
            words += [*self._overrides(), *LEAN, chance.choice(REFUSED)]
        elif chance.random() < 0.15:
            words.append(self._override())
        if chance.random() < 0.2:
            chance.shuffle(words)
        return words

    def _overrides(self) -> list[str]:
        chance = self._chance
        words = [self._override() for _ in range(chance.choice([1, 1, 1, 2, 2, 3]))]
        if chance.random() < 0.25:
            words.insert(chance.randrange(len(words) + 1), "-m")
        if chance.random() < 0.15:
            flag = [chance.choice(FLAGS), *chance.choices([*self._values, *self._places], k=chance.randrange(2))]
            place = chance.randrange(len(words) + 1)
            words[place:place] = flag
        return words

    def _override(self) -> str:
        chance = self._chance
        key, value = chance.choice(self._keys), chance.choice(self._values)
        if chance.random() < 0.15:
            value += "," + chance.choice(self._values)
        if chance.random() < 0.06:
            key = chance.choice(["+", "++", "~"]) + key
        return f"{key}={value}" if chance.random() < 0.96 else key
