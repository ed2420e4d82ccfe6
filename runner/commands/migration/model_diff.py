"""`bridge-runner diff OLD NEW`: what a new layer changed in the tree, the names that fix it, and the proof.

Both sides are read and traced; their modules are matched by the order of their creation, and their leaves by that, by
name and by bits. The proof then tries to tell the new model from the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from flax import nnx

from runner.arrays import alignment, trees
from runner.arrays.tree_diff import Kind, LeafDiff, diff_trees, rename
from runner.bridge.migration.migration_proof import Migration, Proof, Prover
from runner.commands.derived import output_path
from runner.commands.migration import diff_boxes, diff_report, diff_rules
from runner.commands.migration.diff_report import Findings
from runner.commands.migration.diff_sides import Options, Side, read_sides
from runner.commands.printed.json_output import print_json
from runner.config.composing.composed import Config
from runner.config.settings.run import Run
from runner.errors import StorageError, UserError, listed
from runner.launch import process
from runner.records import paths
from runner.records.paths import RunFolder
from runner.records.record import Verdict
from runner.report.terminal import Terminal

EXIT_DIFFERENT = 1

RENUMBERED = "A module without a name is renumbered, so its variables moved."
RENAMED = "Modules have other names than in the old host, so their variables moved."
SWAPPED = "The names give modules the variables of one another."


@dataclass(frozen=True, kw_only=True)
class _Match:
    """One way in which the two trees correspond, and whether the models are the same in it."""

    alignment: alignment.Alignment
    leaves: Sequence[LeafDiff]
    proof: Proof
    is_swap: bool = False

    @property
    def is_proved(self) -> bool:
        return self.proof.holds is True


def diff(old: str, new: str, options: Options) -> int:
    """Prints how the variables of `new` differ from those of `old`.

    Returns:
      0 if the trees are the same and the new model was proved to do what the old one does, else 1.

    Raises:
      UserError: A side is none of these, or `--apply` has no checkpoint to rename.
    """
    process.prepare_process([Config(run=Run())])
    with nnx.use_eager_sharding(False):  # we compare axis names as they are; they shard nothing here
        return _diff(*read_sides(old, new, options), options)


def _diff(old: Side, new: Side, options: Options) -> int:
    if options.apply and (old.place is None or old.variables is None):
        raise UserError(f"{old.label} has no checkpoint to rename", "diff CHECKPOINT pkg.mod:NewHost(…) --apply")
    match = _best_match(old, new)
    leaves = diff_boxes.marked(old, new, match.leaves)
    written, said = _write_renamed(old, new, match) if options.apply else (None, None)
    is_same = match.is_proved and all(item.kind == Kind.same for item in leaves)
    names = {"/".join(path): name for path, name in match.alignment.names.items()}
    given = {"/".join(path): _spelled(new, path, name) for path, name in match.alignment.names.items()}
    boxes = diff_boxes.lines(old, new, leaves)
    rules = None if options.rules is None else diff_rules.judge(options.rules, old, new, leaves)
    is_same = is_same and (rules is None or (rules.verdict is not Verdict.fail and not rules.untested))
    if options.as_json:
        renames = {item.old: item.new for item in leaves if item.old and item.new and item.old != item.new}
        moves = [
            {"old": before, "new": after, "num_leaves": len(items)}
            for (before, after), items in diff_report.whole_moves(leaves).items()
        ]
        answer = {"leaves": [asdict(item) for item in leaves], "names": names, "moves": moves, "renames": renames}
        proof = {"same_bits": match.proof.holds, "sentence": match.proof.sentence, "tried": match.proof.tried}
        more = {} if rules is None else {"rules": asdict(rules) | {"verdict": rules.verdict.value}}
        print_json({**answer, **more, "proof": proof, "written": written and str(written)}, indent=1)
        return 0 if is_same else EXIT_DIFFERENT
    terminal = Terminal()
    findings = Findings(
        labels=(old.full_label, new.full_label),
        leaves=leaves,
        names=given,
        why=_why(new, match),
        remains=_remains(match.alignment, leaves),
        boxes=boxes,
        rules=diff_rules.lines(rules),
        proof=_proof_lines(match.proof),
    )
    for line in [*diff_report.describe(findings), *([said] if said else [])]:
        terminal.line(line)
    return 0 if is_same else EXIT_DIFFERENT


def _best_match(old: Side, new: Side) -> _Match:
    """The first way to match the modules that is proved; else the first: by name, and by what Linen numbered."""
    prove = _proofs(old, new)
    tried: list[_Match] = []
    for found, renames in _ways(old, new):
        leaves = diff_trees(old.shapes, new.shapes, renames).leaves
        if any(leaves == match.leaves for match in tried):
            continue
        tried.append(
            _Match(alignment=found, leaves=leaves, proof=prove(leaves), is_swap=len(tried) == 1 and bool(found.names))
        )
        if tried[-1].is_proved:
            return tried[-1]
        if old.model is None or new.model is None:
            break
    return tried[0]


def _ways(old: Side, new: Side) -> Iterator[tuple[alignment.Alignment, dict[str, str]]]:
    """Alignments of the two trees and the renames of leaves that they mean, the likeliest first."""
    before, after = (side.names.creation if side.model else None for side in (old, new))
    shapes = (old.shapes, new.shapes)
    by_name = alignment.align(*shapes, before, after, by_position=False)
    yield by_name, by_name.renames(*shapes)
    whole = alignment.align(*shapes, before, after, by_position=True)
    yield whole, whole.renames(*shapes)
    if any(item.kind != Kind.same for item in diff_trees(*shapes).leaves):
        for renames in alignment.by_order(*shapes, before, after):
            yield alignment.Alignment(), renames


def _proofs(old: Side, new: Side) -> Callable[[Sequence[LeafDiff]], Proof]:
    """A function from how the leaves correspond to whether the new model does what the old one does."""

    def none(why: str) -> Callable[[Sequence[LeafDiff]], Proof]:
        return lambda _: Proof(holds=None, sentence=why)

    foreign = dict.fromkeys([*old.foreign, *new.foreign])
    if foreign:
        return none(f"none, since building it imports {', '.join(foreign)}: the same with --trust")
    if new.model is None or new.needs is None:
        return none("none without the new host: type pkg.mod:NewHost(…) as the new one")
    if old.model is None or old.needs is None:
        return none("none without the old host: type pkg.mod:OldHost(…)@CHECKPOINT as the old one")
    for side in (old, new):
        if lacking := _lacking(side):
            return none(f"none: {side.label} does not fit its own model: {lacking}")
    prover = Prover(old.model, new.model, old.x, (old.unsaved, new.unsaved))

    def prove(leaves: Sequence[LeafDiff]) -> Proof:
        bad = [item for item in leaves if item.kind not in (Kind.same, Kind.moved, Kind.extra)]
        if bad:
            return Proof(holds=None, sentence=f"none while {len(bad)} leaves are missing or of another kind")
        return prover.prove(_migration(old, new, leaves))

    return prove


def _migration(old: Side, new: Side, leaves: Sequence[LeafDiff]) -> Migration:
    assert old.needs is not None
    needed = {trees.spell(path) for path, _ in trees.flatten(trees.unbox(old.needs.variables))}
    pairs = {str(item.old): str(item.new) for item in leaves if item.new is not None}
    lost = [name for name in needed if name not in pairs]
    replaced = [name for name, other in pairs.items() if name != other or _is_replaced(old, new, name, other)]
    stored = None if old.variables is None else trees.named_arrays(old.variables)
    # A run's own variables are those of its own training, unlike a checkpoint that someone converted.
    own = trees.named_arrays(new.variables) if new.saved is not None and new.variables is not None else None
    return Migration(
        leaves=pairs,
        migrated=[*replaced, *lost],
        stored=stored and {name: leaf for name, leaf in stored.items() if name in needed},
        own=own,
        recorded=old.output,
    )


def _lacking(side: Side) -> str:
    """How a checkpoint differs from what the model next to it needs; what is more in it does no harm."""
    if side.variables is None or side.needs is None:
        return ""
    found = diff_trees(side.shapes, trees.unbox(side.needs.variables)).leaves
    wrong = [item for item in found if item.kind not in (Kind.same, Kind.extra)]
    return listed([f"{item.new} is {'missing' if item.was is None else f'{item.was} at {item.old}'}" for item in wrong])


def _is_replaced(old: Side, new: Side, name: str, other: str) -> bool:
    """Whether the module of a leaf is another one now."""
    before = old.names.owner(tuple(name.split("/")[1:]))
    return before is None or before != new.names.owner(tuple(other.split("/")[1:]))


def _why(new: Side, match: _Match) -> str:
    if match.is_swap:
        return SWAPPED
    return RENUMBERED if any(_is_auto(new, path) for path in match.alignment.names) else RENAMED


def _is_auto(new: Side, path: alignment.Path) -> bool:
    return any(child.name == path[-1] and child.auto for child in new.names.creation.get(path[:-1], ()))


def _spelled(new: Side, path: alignment.Path, name: str) -> str:
    """How a module gets its name: in `setup`, it is its attribute's."""
    in_setup = path[:-1] in new.names.setups and not _is_auto(new, path)
    return f"self.{name} = …" if in_setup else f"name='{name}'"


def _proof_lines(proof: Proof) -> list[str]:
    tried = [f"tried: {proof.tried}"] if proof.tried else []
    return [*tried, f"{'no proof' if proof.is_missing else 'proof'}: {proof.sentence}"]


def _remains(found: alignment.Alignment, leaves: Sequence[LeafDiff]) -> list[tuple[str, str]]:
    """What is still deeper, or less deep, once every module has its old name."""
    remains = []
    for old, new in diff_report.whole_moves(leaves):
        parts = new.split("/")
        # The names are those of the new paths: from the outside in, each becomes the old one.
        named = [found.names.get(tuple(parts[1 : cut + 1]), part) if cut else part for cut, part in enumerate(parts)]
        if "/".join(named) != old:
            remains.append((old, "/".join(named)))
    return remains


def _write_renamed(old: Side, new: Side, match: _Match) -> tuple[Path | None, str]:
    """Writes the old variables at their new paths, next to the old checkpoint; what the new model lacks is left out.

    Returns:
      The folder, or None if a checkpoint could only mislead; and what to say.
    """
    missing = [
        str(item.new) for item in match.leaves if item.kind not in (Kind.same, Kind.moved, Kind.extra, Kind.boxed)
    ]
    if missing:
        return None, f"not written: {listed(missing)} would be made up, or not fit"
    if match.proof.holds is False:
        return None, "not written: the new model would give something else"
    place = _renamed_place(old)
    renames = {str(item.old): str(item.new) for item in match.leaves if item.new is not None}
    kept = trees.select(trees.to_host(old.variables), lambda path: trees.spell(path) in renames)
    output_path.save(diff_boxes.boxed_like(rename(kept, renames), new), place)
    extra = [str(item.old) for item in match.leaves if item.kind == Kind.extra]
    extra += old.saved.others if old.saved else []
    unproved = "" if match.is_proved else ", not proved"
    return place, f"written: {place}{unproved}" + (f", without {listed(extra)}" if extra else "")


def _renamed_place(old: Side) -> Path:
    assert old.place is not None
    folder = old.saved.folder if old.saved else old.place
    run = RunFolder(folder.parent)
    place = folder.with_name(f"{folder.name}-renamed")
    if run.record.exists() and folder == run.checkpoint:
        place = output_path.default_target(run, "renamed")
    if place.exists():
        raise StorageError(f"{place} is there already", f"rm -r {place}")
    paths.require_plain(place, f"{old.label} in another folder")
    return place
