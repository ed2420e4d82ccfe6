"""What a sweep is over: the product, values that go together, and conditions that are read and never run."""

from __future__ import annotations

import itertools

import pytest

from runner.config.composing import zip_exclude
from runner.errors import ConfigError

TRY_ZIP = "\n  Try: grid.zip=[[seed,features]]"
TRY_EXCLUDE = "\n  Try: \"grid.exclude=['features>16 and seed==0']\""

AXES = {"a": ["a=1", "a=2"], "b": ["b=1", "b=2", "b=3"], "c": ["c=1", "c=2"], "d": ["d=1", "d=2", "d=3"]}

FIRST = {"seed": 0, "features": 8, "layer": "linear", "layer.name": "x", "shape": [4]}
SECOND = {"seed": 1, "features": 32, "layer": "mlp", "layer.name": "y", "shape": [16, 2]}
CONFIGS = [FIRST | {"sweep": None, "low": 0.5, "on": True}, SECOND | {"sweep": "s", "low": -2, "on": False}]


@pytest.mark.parametrize("keys", ["", "a", "ab", "ba", "dcba"])
def test_without_zip_last_axis_varies_fastest(keys):
    axes = {key: AXES[key] for key in keys}
    assert zip_exclude.combine(axes, []) == list(itertools.product(*axes.values()))


def test_zipped_keys_advance_together():
    assert zip_exclude.combine({key: AXES[key] for key in "abc"}, [["c", "a"]]) == [
        ("a=1", "b=1", "c=1"),
        ("a=1", "b=2", "c=1"),
        ("a=1", "b=3", "c=1"),
        ("a=2", "b=1", "c=2"),
        ("a=2", "b=2", "c=2"),
        ("a=2", "b=3", "c=2"),
    ]


def test_several_zips_multiply():
    jobs = zip_exclude.combine(AXES, [["a", "c"], ["b", "d"]])
    pairs = itertools.product(zip(AXES["a"], AXES["c"], strict=True), zip(AXES["b"], AXES["d"], strict=True))
    assert jobs == [(a, b, c, d) for (a, c), (b, d) in pairs]


@pytest.mark.parametrize("zipped", [["a", "c"], [["a", "c"]], [["c", "a"]], (("a", "c"),)])
def test_zip_accepts_any_nesting_and_order(zipped):
    assert zip_exclude.combine(AXES, zipped) == zip_exclude.combine(AXES, [["a", "c"]])


def test_any_number_of_keys_goes_together():
    axes = {"a": ["1", "2"], "b": ["3", "4"], "c": ["5", "6"]}
    assert zip_exclude.combine(axes, [["b", "c", "a"]]) == [("1", "3", "5"), ("2", "4", "6")]


@pytest.mark.parametrize(
    ("zipped", "said"),
    [
        ([["a"]], f"grid.zip=[[a]]: at least two keys go together.{TRY_ZIP}"),
        ([[]], f"grid.zip=[[]]: at least two keys go together.{TRY_ZIP}"),
        (["a"], f"grid.zip=[[a]]: at least two keys go together.{TRY_ZIP}"),
        ([["a", "a"]], f"grid.zip=[[a,a]]: a stands in it twice.{TRY_ZIP}"),
        ([["a", "c"], ["c", "a"]], f"grid.zip=[[a,c],[c,a]]: a stands in it twice.{TRY_ZIP}"),
        (
            [["a", "b"]],
            "grid.zip=[[a,b]]: its keys have different numbers of values: a has 2, b has 3.\n  Try: a=1,2 b=1,2",
        ),
        (
            [["a", "c"], ["d", "b2"]],
            "grid.zip=[[a,c],[d,b2]]: the sweep is not over b2.\n  Try: grid.zip=[[a,c],[d,b]]",
        ),
        ([["a", "zzzz"]], "grid.zip=[[a,zzzz]]: the sweep is not over zzzz.\n  Try: zzzz=1,2 grid.zip=[[a,zzzz]]"),
        ([1], "grid.zip=[[1]]: the sweep is not over 1.\n  Try: 1=1,2 grid.zip=[[1]]"),
    ],
)
def test_invalid_zips_are_refused(zipped, said):
    with pytest.raises(ConfigError) as refused:
        zip_exclude.combine(AXES, zipped)
    assert str(refused.value) == said


def test_long_axes_are_reported_by_length():
    axes = {key: [f"{key}={value}" for value in range(num)] for key, num in (("a", 9), ("b", 10))}
    with pytest.raises(ConfigError, match=r"a has 9, b has 10\.\n  Try: 9 values for each of a, b$"):
        zip_exclude.combine(axes, [["a", "b"]])


@pytest.mark.parametrize(
    "condition",
    [
        "seed==0",
        "seed == 0  # the first",
        "  seed==0 ",
        "seed<1",
        "seed<=0",
        "0>=seed",
        "-1<seed<1",
        "features!=32",
        "features<16 and seed==0",
        "features>100 or seed==0",
        "not seed==1",
        "not (seed==1 or features==32)",
        "seed==1 and features==8 or layer==linear",
        "layer==linear",
        "layer=='linear'",
        "layer in [linear,conv]",
        "layer in (linear, 'conv')",
        "layer not in [mlp]",
        "layer.name==x",
        "'x'==layer.name",
        "layer!=layer.name and layer.name!=y",
        "shape==[4]",
        "4 in shape",
        "[16,2]!=shape",
        "sweep==null",
        "sweep==None",
        "sweep!=s",
        "low>-2",
        "low>-.5 and low==5e-1",
        "on==true",
        "on==True",
        "on!=false",
        "seed<features<9",
        "seed in [0, 0.5, [1], null]",
    ],
)
def test_exclude_drops_matching_configs(condition):
    assert zip_exclude.leave_out(CONFIGS, [condition]) == [1]


def test_any_matching_condition_excludes():
    configs = [{"seed": seed} for seed in range(5)]
    assert zip_exclude.leave_out(configs, ["seed==1", "seed>2"]) == [0, 2]
    assert zip_exclude.leave_out(configs, ["seed==1", "1<=seed<3"]) == [0, 3, 4]
    assert zip_exclude.leave_out(configs, []) == [0, 1, 2, 3, 4]
    assert zip_exclude.leave_out([], []) == []


def test_conditions_resolve_keys_and_keep_text():
    configs = [{"layer": "seed", "seed": 1}, {"layer": "mlp", "seed": "mlp"}]
    assert zip_exclude.leave_out(configs, ["layer==seed"]) == [0]
    assert zip_exclude.leave_out(configs, ["layer=='seed'"]) == [1]


@pytest.mark.parametrize("condition", ["layer.kwargs.hidden>8", "layer==mlp and layer.kwargs.hidden>8"])
def test_missing_keys_are_no_error(condition):
    configs = [{"layer": "linear"}, {"layer": "mlp", "layer.kwargs.hidden": 16}]
    assert zip_exclude.leave_out(configs, [condition]) == [0]


COMPARED = "only keys, numbers, lists and words can be compared"


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        ("", "it is no condition"),
        ("seed = 0", "it is no condition"),
        ("seed==0; seed==1", "it is no condition"),
        ("seed==", "it is no condition"),
        ("device==cpu:1", "it is no condition"),
        ("import os", "it is no condition"),
        ("a\0b", "it is no condition"),
        ("(" * 3000 + "seed==0" + ")" * 3000, "it is no condition"),
        ("not " * 5000 + "seed==0", "it is no condition"),
        ("seed==" + "-" * 5000 + "1", "it is no condition"),
        ("seed", "a comparison of a key is wanted"),
        ("True", "a comparison of a key is wanted"),
        ("not seed", "a comparison of a key is wanted"),
        ("seed==0 and 1", "a comparison of a key is wanted"),
        ("0 if seed==0 else 1", "a comparison of a key is wanted"),
        ("seed==0, seed==1", "a comparison of a key is wanted"),
        ("1==1", "it names no key"),
        ("sed==1", "there is no key sed; did you mean seed"),
        ("qqqqqqqq==1", "there is no key qqqqqqqq"),
        ("layer.nam==x", "there is no key layer.nam; did you mean layer.name"),
        ("seed==0 or qqqqqqqq==1", "there is no key qqqqqqqq"),
        ("features>'a'", "its sides can't be compared"),
        ("seed>null", "its sides can't be compared"),
        ("seed in features", "its sides can't be compared"),
        ("seed is 0", "its sides can't be compared"),
        ("seed is not null", "its sides can't be compared"),
        ("seed==-x", COMPARED),
        ("seed==-'a'", COMPARED),
        ("seed==-[1]", COMPARED),
        ("seed=={0}", COMPARED),
        ("seed==[0][0]", COMPARED),
        ("seed==9", "no config of this sweep matches it"),
        ("seed>=0", "it leaves none of 2 configs"),
    ],
    ids=lambda text: text[:40],
)
def test_invalid_conditions_are_refused(condition, reason):
    with pytest.raises(ConfigError) as refused:
        zip_exclude.leave_out(CONFIGS, [condition])
    assert str(refused.value) == f"grid.exclude={condition}: {reason}.{TRY_EXCLUDE}"


def test_conditions_excluding_everything_are_refused():
    with pytest.raises(ConfigError) as refused:
        zip_exclude.leave_out(CONFIGS, ["seed==0", "seed==1"])
    assert str(refused.value) == f"grid.exclude=seed==0, seed==1: it leaves none of 2 configs.{TRY_EXCLUDE}"


class Trap(dict):
    """A config whose values must not be touched but as values."""

    def __getattr__(self, name):
        raise AssertionError(f"{name} was looked up")


@pytest.mark.parametrize(
    "condition",
    [
        "__import__('os').system('touch ran')==seed",
        "print(seed)==None",
        "seed==open('ran','w')",
        "seed.__class__==int",
        "seed==seed.__class__.__name__()",
        "().__class__.__bases__==seed",
        "seed==(lambda: 0)()",
        "(lambda: seed)==0",
        "f'{seed}'=='0'",
        "seed==f'{open(1)}'",
        "(seed:=1)==1",
        "seed==(features:=1)",
        "seed==2**9**9**9",
        "9**9**9**9>seed",
        "seed==1<<999999999",
        "seed=='a'*10**12",
        "[x for x in seed]==seed",
        "seed in [x for x in [0]]",
        "seed==(x for x in [0])",
        "seed==shape[0]",
        "seed==~0",
        "seed==+0",
        "seed==0+0",
        "seed==(await features)",
        "seed==(yield)",
        "seed==[*shape]",
        "seed=={**shape}",
    ],
)
def test_nothing_is_ever_run_as_python(condition, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match="it names no key|there is no key|only keys, numbers, lists|it is no condition"
    ):
        zip_exclude.leave_out([Trap(config) for config in CONFIGS], [condition])
    assert list(tmp_path.iterdir()) == []
