"""Configs from overrides: the same that Hydra composes, for every job, with the files that Hydra leaves beside it."""

from __future__ import annotations

import functools
import random
import re
import shlex

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict

from runner.commands import main
from runner.config import conf_folder, dotted_keys, schema
from runner.config.composing import compose
from runner.config.composing.overrides import expand
from runner.errors import UserError

# A folder of the user's own, as --config-dir names it.
USERS = {
    "layer/mine.yaml": "name: mine\ntarget: flax.nnx.Linear\nkwargs: {in_features: 4, out_features: '${seed}'}",
    "experiment/jobs.yaml": "features: ${hydra:job.num}\nlayer: {kwargs: {name: '${hydra:job.id}'}}",
    "experiment/clock.yaml": "tracking: {notes: '${now:%Y-%m-%d_%H-%M-%S-%f} ${oc.env:MY_NOTE}'}",
    "experiment/typed.yaml": "tracking: {notes: '${hydra:job.override_dirname}'}",
    "experiment/task.yaml": "tracking: {tags: '${hydra:overrides.task}'}",
    "experiment/chosen.yaml": "tracking: {notes: '${hydra:runtime.choices.layer}'}",
    "experiment/wanted.yaml": "seed: ???",
    "experiment/negative.yaml": "seed: -1",
    "experiment/follows.yaml": "seed: ${features}",
}

OVERRIDES = [
    (),
    ("seed=3",),
    ("seed=3", "features=5"),
    ("seed=4294967295",),
    ("seed=007",),
    ("seed=1_0",),
    ("seed=1", "seed=2"),
    ("seed=1", "seed=2_0"),
    ("++seed=4",),
    ("seed=2", "++seed=4"),
    ("layer=mlp", "seed=1"),
    ("seed=1", "layer=conv", "input_shape=[16,2]"),
    ("input_shape=[16,2]", "layer=conv", "layer.kwargs.padding=VALID"),
    ("layer=embed", "input_shape=[3]", "layer.kwargs.num_embeddings=7"),
    ("layer=batch_norm", "timing=careful", "seed=5"),
    ("timing.rounds=20", "timing=careful"),
    ("timing=off", "checks=off", "checkpoint=none", "tracking=disabled", "seed=9"),
    ("input=tokens", "input.high=9", "input.seed=3"),
    ("input=arange", "input.dtype=bfloat16"),
    ("+experiment=width", "seed=2"),
    ("+experiment=layers", "layer=dropout"),
    ("+debug=default", "seed=2"),
    ("+debug=default", "timing=quick", "failure.action=continue"),
    ("layer.kwargs.use_bias=false", "seed=1"),
    ("+layer.kwargs.use_bias=false",),
    ("++layer.kwargs.use_bias=false", "++timing.rounds=4"),
    ("layer.kwargs.a={b:{c:[1,2,{d:null}]}}",),
    ("+layer.kwargs={a:1,b:{c:2}}", "seed=3"),
    ("layer={name:other,kwargs:{a:1}}", "seed=3"),
    ("layer.kwargs.a=1", "layer={kwargs:{a:2}}"),
    ("+layer.call.deterministic=true", "layer.call.mask=null"),
    ("~layer.kwargs.out_features",),
    ("layer=mlp", "~layer.kwargs.hidden", "seed=4"),
    ("~layer.kwargs.out_features", "+layer.kwargs.out_features=3"),
    ("~timing",),
    ("~checks", "seed=3"),
    ("~seed",),
    ("~seed", "+seed=5"),
    ("layer.kwargs.out_features=${seed}", "seed=3"),
    ("layer.kwargs.out_features=${.in_features}", "seed=3"),
    ("layer.kwargs.out_features=${features}", "features=${seed}", "seed=3"),
    ("layer.kwargs.out_features=${input.seed}", "seed=3"),
    ("input.seed=${seed}", "seed=3"),
    ("sweep=s${seed}", "seed=3"),
    ("input_shape=[${seed},4]", "seed=3"),
    ("layer.kwargs.out_features=${..name}", "layer.name=x", "seed=3"),
    ("layer.call.key=seed", "layer.kwargs.out_features='${${layer.call.key}}'", "seed=3"),
    ("layer.call.key=hydra", "layer.kwargs.n='${${layer.call.key}:job.num}'", "seed=3"),
    ("layer.kwargs.n=${hydra:job.num}", "seed=3"),
    ("layer.kwargs.n='${axis:${input_shape},0}'", "input_shape=[7,4]", "seed=3"),
    ("layer.kwargs.n=${oc.env:MY_NOTE}", "seed=3"),
    ("layer.kwargs.n='${oc.decode:${oc.env:MY_NUMBER}}'", "seed=3"),
    ("layer.kwargs.n=\\${seed}", "seed=3"),
    ("tracking.notes='a, b = c'", "seed=3"),
    ('tracking.notes="two words"', "tracking.tags=[a,'b c',\"d,e\"]"),
    ("tracking.notes=''",),
    ("tracking.notes='1e3'", "sweep='3'"),
    ("tracking.tags=['1','off','null']",),
    ("layer.kwargs.x=1e3", "layer.kwargs.y='1e3'", "layer.kwargs.z=.5", "layer.kwargs.w=1_000"),
    ("layer.kwargs.x=inf", "layer.kwargs.y=-inf", "layer.kwargs.z='nan'"),
    ("layer.kwargs.x=off", "layer.kwargs.y=yes", "layer.kwargs.z=TRUE", "layer.kwargs.w=null"),
    ("layer.kwargs.x=[]", "layer.kwargs.y={}", "seed=1"),
    ("features=null", "layer=layer_norm", "seed=1"),
    ("process.compilation_cache=off", "device=cpu:0", "process.num_cpu_devices=2"),
    ("grid.zip=[[seed,features]]", "grid.exclude=['seed==1 and features>2']", "seed=1"),
    ("hydra.job.name=other", "seed=1"),
    ("seed=918273645", "tracking.notes=\"'@id@'\""),
    ("layer=mine", "seed=3"),
    ("layer=mine", "seed=5", "features=2"),
    ("+experiment=jobs", "seed=3"),
    ("+experiment=typed", "seed=3", "features=4"),
    ("+experiment=task", "seed=3"),
    ("+experiment=chosen", "layer=mlp", "seed=3"),
    ("+experiment=wanted", "seed=3"),
    ("+experiment=follows", "features=3"),
    ("+experiment=negative", "seed=3"),
    ("+experiment=follows", "features=3", "seed=4"),
]

TEXTS = [
    "3", "-3", "1_000", "1e3", "1E5", "-1e-3", ".5", "5.", "1.0_0e5", "0x1F", "0o17", "0b1", "017", "1:30", "1:30.5",
    "inf", "nan", ".inf", "-.inf", ".nan", "true", "True", "off", "on", "pass", "n", "y", "null", "Null", "~", "", " ",
    " lead", "trail ", "a: b", "- a", "# a", "a #b", "@x", "`x", "%x", "&x", "*x", "!x", "|", ">", "{a: b}", "[a]", "'",
    '"', "\\", "a\nb", "a\n\nb\n", "\n", "\ta", "a\tb", "a\r\nb", "ä ö – 層 🎈", "\x1b[31m", "\x7f", "\u2028", "\x85",
    "2020-01-01", "2020-01-01 10:00:00", "=", "<<", "---", "...", "?", "a,b", "long " * 60, "${features}", "\ufeffx",
]  # fmt: skip


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("my_conf")
    for name, text in USERS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        whole = "# @package _global_\n" if name.startswith("experiment") else ""
        (folder / name).write_text(whole + text)
    schema.register()
    setup_globals()
    path = create_config_search_path(f"file://{conf_folder.config_dir()}")
    path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    GlobalHydra.instance().clear()
    loader = Hydra.create_main_hydra2("bridge-runner", path).config_loader
    GlobalHydra.instance().clear()  # the command line makes its own
    yield loader
    HydraConfig.instance().cfg = None


@pytest.fixture(scope="module")
def master(loader):
    return loader.load_configuration("config", ["hydra.mode=MULTIRUN"], RunMode.MULTIRUN)


@pytest.fixture(scope="module")
def composer(loader, master):
    return compose.Composer(loader, "config", ["hydra.mode=MULTIRUN"], master)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("MY_NOTE", "note")
    monkeypatch.setenv("MY_NUMBER", "7")


def hydras_own(loader, master, overrides, num):
    """What Hydra's own launcher composes for a job: the task's config, and Hydra's."""
    whole = loader.load_sweep_config(master, list(overrides))
    with open_dict(whole):
        whole.hydra.job.num = num
        whole.hydra.job.id = str(num)
    HydraConfig.instance().set_config(whole)
    task = whole.copy()
    with open_dict(task):
        hydra = OmegaConf.create({"hydra": task.pop("hydra")})
    return task, hydra


@pytest.fixture(scope="module")
def by_hydra(loader, master):
    """What Hydra's own launcher composes for job 7, once for all tests that compare with it."""

    @functools.cache
    def composed(overrides):
        return *hydras_own(loader, master, overrides, 7), HydraConfig.instance().cfg

    def give(overrides):
        task, hydra, whole = composed(overrides)
        HydraConfig.instance().cfg = whole  # what `${hydra:…}` is read from
        return task, hydra

    return give


def resolved(task):
    """The values of a config, or why it has none: the same sentence is wanted then."""
    try:
        return OmegaConf.to_container(task, resolve=True)
    except Exception as error:  # noqa: BLE001
        return str(error)


def as_run(task):
    try:
        return schema.from_config(task)
    except UserError as error:
        return str(error)


def typed(composer, overrides, num):
    try:
        return composer.config(overrides, num).run
    except (UserError, HydraException) as error:
        return str(error)


def quoted(text):
    """`text` as a value on Hydra's command line."""
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text) + "'"


def assert_holds(files, task, hydra):
    """That the three files of a job, read back, are these configs and Hydra's list of what was typed."""
    wanted = {"config.yaml": task, "hydra.yaml": hydra, "overrides.yaml": hydra.hydra.overrides.task}
    read = {name: OmegaConf.create(text) for name, text in files.items()}
    assert plain(read) == plain(wanted)


def plain(configs):
    return {name: OmegaConf.to_container(config, enum_to_str=True) for name, config in configs.items()}


@pytest.mark.sampled
@pytest.mark.parametrize("overrides", OVERRIDES, ids=" ".join)
def test_job_configs_equal_hydra_configs(overrides, by_hydra, composer):
    task, _ = by_hydra(overrides)
    wanted = OmegaConf.to_container(task), resolved(task), as_run(task)
    ours = composer.task_config(overrides, 7)
    assert (OmegaConf.to_container(ours), resolved(ours), as_run(ours)) == wanted


@pytest.mark.sampled
@pytest.mark.parametrize("overrides", OVERRIDES, ids=" ".join)
def test_job_runs_ignore_earlier_compositions(overrides, by_hydra, composer):
    task, _ = by_hydra(overrides)
    wanted = as_run(task)
    others = [text for text in overrides if not text.startswith("seed=")]
    typed(composer, [*others, "seed=11"], 3)
    assert typed(composer, overrides, 7) == wanted


@pytest.mark.sampled
@pytest.mark.parametrize("overrides", OVERRIDES, ids=" ".join)
def test_hydra_files_equal_hydra_output(overrides, by_hydra, composer):
    task, hydra = by_hydra(overrides)
    if isinstance(as_run(task), str):
        assert isinstance(typed(composer, overrides, 7), str)  # no run, no files
        return
    assert_holds(composer.config(overrides, 7).hydra_files(7), task, hydra)


@pytest.mark.sampled
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_text_survives_the_hydra_files(text, loader, master, composer):
    overrides = (f"layer.kwargs.x={quoted(text)}", "seed=1")
    task, hydra = hydras_own(loader, master, overrides, 7)
    assert OmegaConf.to_container(task)["layer"]["kwargs"]["x"] == text
    assert_holds(composer.config(overrides, 7).hydra_files(7), task, hydra)


@pytest.mark.slow
@pytest.mark.parametrize(
    "typed_once",
    [
        ["hydra.job.name=other"],
        ["hydra.job.config.override_dirname.kv_sep=:", "hydra.job.config.override_dirname.item_sep=_"],
        ["hydra.job.config.override_dirname.exclude_keys=[seed]"],
        ["+hydra.job.env_set.A=b"],
        ["hydra/launcher=basic"],
    ],
    ids=" ".join,
)
def test_hydra_overrides_hold_for_every_job(typed_once, loader):
    master = loader.load_configuration("config", typed_once, RunMode.MULTIRUN)
    composer = compose.Composer(loader, "config", typed_once, master)
    for num, overrides in enumerate([("features=5", "seed=1"), ("seed=2", "layer=mlp")]):
        task, hydra = hydras_own(loader, master, overrides, num)
        assert_holds(composer.config(overrides, num).hydra_files(num), task, hydra)


def test_search_path_groups_are_found(loader, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "big.yaml").write_text("# @package _global_\nfeatures: 512\n")
    search = [f"hydra.searchpath=[file://{tmp_path}]"]
    master = loader.load_configuration("config", search, RunMode.MULTIRUN)
    wanted = as_run(hydras_own(loader, master, ["+mine=big", "seed=1"], 7)[0])
    assert wanted.features == 512
    assert compose.Composer(loader, "config", search, master).config(["+mine=big", "seed=1"], 7).run == wanted


@pytest.mark.slow
def test_all_jobs_share_the_sweep_time(loader):
    master = loader.load_configuration("config", [], RunMode.MULTIRUN)
    when = str(master.hydra.sweep.dir).rpartition("/")[2]
    composer = compose.Composer(loader, "config", [], master)
    for overrides in (["+experiment=clock", "seed=1"], ["+experiment=clock", "layer=mlp", "seed=1"]):
        wanted = as_run(hydras_own(loader, master, overrides, 7)[0])
        run = composer.config(overrides, 7).run
        assert run == wanted
        assert run.tracking.notes == f"{when} note"


def test_out_of_range_seeds_are_refused(composer):
    with pytest.raises(UserError, match="^seed=4294967296: a seed is a whole number from 0 to 4294967295\\.\n"):
        composer.config(["seed=4294967296"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [("sed=1",), ("seed=1", "~nothing"), ("seed=1", "layer=liner"), ("seed=a",), ("+seed=1",), ("timing@x=off",)],
    ids=" ".join,
)
def test_hydra_errors_keep_their_message(overrides, loader, master, composer):
    with pytest.raises(HydraException) as by_hydra:
        loader.load_sweep_config(master, list(overrides))
    with pytest.raises(HydraException) as by_us:
        composer.config(overrides)
    assert str(by_us.value) == str(by_hydra.value)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("seed=1",),
        ("seed=1,2", "features=8,16"),
        ("features=8,16", "seed=range(0,3)"),
        ("seed=range(0,10,3)", "+layer.kwargs.x=range(0,1,0.25)"),
        ("input_shape=[4],[16,2]", "layer=mlp"),
        ("layer=glob(*)",),
        ("layer=glob([l*,m*],exclude=lo*)", "seed=0"),
        ("seed=choice(3,1,2)",),
        ("seed=shuffle(range(0,8))",),
        ("seed=shuffle(1,2,3)", "features=shuffle(8,16)"),
        ("seed=sort(3,1,2)", "features=sort(8,16,reverse=true)"),
        ("seed=tag(mine,choice(1,2))", "features=tag(a,b,range(1,3))"),
        ("tracking.notes='a,b',\"c d\",''",),
        ("layer.kwargs.x={a:1},{a:2}", "layer.kwargs.y=[1,2],[]"),
        ("layer.kwargs.x=null,true,1e3,'1e3',-inf",),
        ("+layer.kwargs.x=1,2", "++layer.kwargs.y=a,b", "~layer.kwargs.z"),
        ("~timing", "seed=1,2"),
        ("seed=1,2", "seed=3"),
        ("seed=1,2", "features=8", "seed=3,4"),
        ("seed=1,2", "++seed=3"),
        ("sweep='${layer.name}'", "features='${seed}',8"),
        ("hydra.job.name=x", "seed=1,2"),
    ],
    ids=" ".join,
)
def test_sweeps_expand_like_the_basic_sweeper(arguments, loader):
    random.seed(7)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
    (wanted,) = BasicSweeper.split_arguments(parsed, None)
    random.seed(7)
    assert [list(job) for job in expand(arguments, loader)] == wanted


def test_zipped_sweep_keys_advance_together(loader):
    jobs = expand(["seed=0,1", "layer=mlp,conv", "features=range(8,10)"], loader, [["features", "seed"]])
    assert jobs == [
        ("seed=0", "layer=mlp", "features=8"),
        ("seed=0", "layer=conv", "features=8"),
        ("seed=1", "layer=mlp", "features=9"),
        ("seed=1", "layer=conv", "features=9"),
    ]


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("seed=interval(0,1)", "seed=interval(0,1): an interval has no list of values.\n  Try: seed=range(0,10)"),
        ("seed=range(3,3)", "seed=range(3,3): the sweep over it has no values.\n  Try: seed=range(0,3)"),
    ],
)
def test_sweeps_need_a_list_of_values(argument, said, loader):
    with pytest.raises(UserError) as refused:
        expand([argument], loader)
    assert str(refused.value) == said


@pytest.mark.slow
@pytest.mark.parametrize("flag", [[], ["-m"]])
def test_typed_interpolations_work_everywhere(flag, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    values = ["layer.kwargs.out_features=${seed}", "layer.kwargs.in_features='${axis:${input_shape},-1}'"]
    quiet = ["tracking=disabled", "timing=off", "checkpoint=none", "checks=off"]
    code = main.main([*flag, "seed=3", "input_shape=[2,5]", *values, *quiet])
    assert (code, capsys.readouterr().err) == (0, "")
    (path,) = tmp_path.rglob(".hydra/config.yaml")
    assert OmegaConf.load(path).layer.kwargs == {"in_features": 5, "out_features": 3}


@pytest.mark.slow
def test_suggested_override_can_be_typed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["layer=linear", "layer.kwargs.in_features=5", "tracking=disabled", "timing=off", "checkpoint=none"]
    assert main.main(words) == 2
    suggestion = capsys.readouterr().err.partition("\n  Try: ")[2]
    assert suggestion == "'input_shape=[5]'\n"
    assert main.main([*words, *shlex.split(suggestion)]) == 0


def test_exact_keys_tell_types_apart():
    values = [{"a": 1}, {"a": 1.0}, {"a": True}, {"a": "1"}, {"a": [1]}, {"a": None}, {"a": -0.0}, {"a": 0.0}]
    assert len({dotted_keys.exact(value) for value in values}) == len(values)
    assert dotted_keys.exact({"a": [0.1, "x" * 9]}) == dotted_keys.exact({"a": [0.1, "".join(["x"] * 9)]})
