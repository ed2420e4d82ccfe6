"""The values of x, and what can not be an x."""

from __future__ import annotations

import hashlib

import jax
import ml_dtypes
import numpy as np
import pytest

from runner.config.enums import InputKind
from runner.config.settings.layer import InputSettings
from runner.errors import ConfigError
from runner.experiment import inputs


def settings_of(kind, **values):
    return InputSettings(kind=InputKind[kind], **values)


def refused(settings, shape=(2, 3)):
    with pytest.raises(ConfigError) as caught:
        inputs.make_input(settings, shape)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [("ones", [[1, 1, 1], [1, 1, 1]]), ("zeros", [[0, 0, 0], [0, 0, 0]]), ("arange", [[0, 1, 2], [3, 4, 5]])],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "complex64", "float8_e4m3fn"])
def test_deterministic_inputs_have_known_values(kind, values, dtype):
    x = inputs.make_input(settings_of(kind, dtype=dtype), [2, 3])
    assert x.dtype.name == dtype
    assert x.astype(np.float64 if dtype != "complex64" else dtype).tolist() == values


def test_normal_inputs_have_fixed_values():
    x = inputs.make_input(settings_of("normal", seed=0), [3])
    assert [value.hex() for value in x.tolist()] == [
        float(np.float32(value)).hex() for value in (0.12573022, -0.13210486, 0.64042264)
    ]


@pytest.mark.parametrize("kind", ["normal", "tokens"])
def test_only_the_seed_changes_the_values(kind):
    dtype = "int32" if kind == "tokens" else "float32"
    made = [inputs.make_input(settings_of(kind, seed=seed, dtype=dtype, high=1000), [9]) for seed in (0, 0, 1)]
    assert made[0].tobytes() == made[1].tobytes() != made[2].tobytes()


def test_tokens_stay_below_the_vocabulary_size():
    x = inputs.make_input(settings_of("tokens", dtype="int32", high=3), [1000])
    assert set(x.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(("dtype", "high"), [("int8", 300), ("uint8", 257)])
def test_unrepresentable_tokens_are_refused(dtype, high):
    assert refused(settings_of("tokens", dtype=dtype, high=high)).startswith(f"input.dtype={dtype}: ")


NARROWED = "JAX would narrow it to 32 bits; set the environment variable JAX_ENABLE_X64=1"


@pytest.mark.parametrize(
    ("kind", "dtype", "message"),
    [
        ("normal", "flot", "no such dtype.\n  Try: input.dtype=float32"),
        ("normal", "int32", "normal values need a floating type.\n  Try: input.dtype=float32"),
        ("tokens", "float32", "tokens are integers.\n  Try: input.dtype=int32"),
        (
            "normal",
            "float64",
            f"{NARROWED}.\n  Try: input.dtype=float32",
        ),
        (
            "tokens",
            "int64",
            f"{NARROWED}.\n  Try: input.dtype=int32",
        ),
        (
            "ones",
            "complex128",
            f"{NARROWED}.\n  Try: input.dtype=complex64",
        ),
    ],
)
def test_invalid_input_dtypes_are_refused(kind, dtype, message):
    settings = settings_of(kind, dtype=dtype, high=4)
    assert refused(settings) == f"input.dtype={dtype}: {message}"
    with pytest.raises(ConfigError, match=f"^input.dtype={dtype}: "):
        inputs.require(settings, [2])


@pytest.mark.parametrize("dtype", ["str", "object", "datetime64[s]"])
def test_unsupported_dtypes_are_refused(dtype):
    assert refused(settings_of("ones", dtype=dtype)).startswith(f"input.dtype={dtype}: ")


def test_x64_mode_allows_float64_inputs():
    with jax.enable_x64(True):
        assert inputs.make_input(settings_of("normal", dtype="float64"), [2]).dtype == np.float64


def test_require_allocates_nothing():
    inputs.require(settings_of("normal"), [10**9, 10**9])


def test_input_files_are_cast_to_dtype(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6.0).reshape(2, 3))
    x = inputs.make_input(settings_of("file", path=str(tmp_path / "x.npy"), dtype="bfloat16"), [2, 3])
    assert (x.dtype.name, x.tolist()) == ("bfloat16", [[0, 1, 2], [3, 4, 5]])


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.ones(2))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert inputs.make_input(settings_of("file", path="~/x.npy"), [2]).tolist() == [1, 1]


def test_wrong_file_shapes_are_reported(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.ones((2, 3)))
    message = f"input_shape=[3,2]: {path} holds an array of shape [2,3].\n  Try: 'input_shape=[2,3]'"
    assert refused(settings_of("file", path=str(path)), [3, 2]) == message


SAVE_FIRST = "  Try: numpy.save('x.npy', x), then input.path=x.npy"


def write_bad(path):
    np.savez(path / "archive", x=np.ones(3))
    np.save(path / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(path / "whole.npy", np.ones((2, 3)))
    (path / "cut.npy").write_bytes((path / "whole.npy").read_bytes()[:-3])
    (path / "empty.npy").write_bytes(b"")
    (path / "text.npy").write_text("hello")
    (path / "folder.npy").mkdir()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gone.npy", "there is no such file.\n  Try: input.path=x.npy"),
        ("archive.npz", "an archive of arrays, not one array.\n  Try: input.path=x.npy"),
        ("empty.npy", f"not an .npy array (No data left in file).\n{SAVE_FIRST}"),
        (
            "objects.npy",
            f"not an .npy array (Object arrays cannot be loaded when allow_pickle=False).\n{SAVE_FIRST}",
        ),
        ("folder.npy", f"not an .npy array ([Errno 21] Is a directory: '{{path}}').\n{SAVE_FIRST}"),
    ],
)
def test_invalid_input_files_explain_themselves(tmp_path, name, reason):
    write_bad(tmp_path)
    path = tmp_path / name
    assert refused(settings_of("file", path=str(path))) == f"input.path={path}: {reason.format(path=path)}"


@pytest.mark.parametrize("name", ["cut.npy", "text.npy"])
def test_a_damaged_file_is_refused(tmp_path, name):
    write_bad(tmp_path)
    message = refused(settings_of("file", path=str(tmp_path / name)))
    assert message.startswith(f"input.path={tmp_path / name}: not an .npy array (")
    assert message.endswith(SAVE_FIRST)


@pytest.mark.parametrize(
    "array",
    [np.array([["a", "b"]]), np.ones((1, 2), ml_dtypes.bfloat16), np.array([[1j, 2]])],
    ids=["text", "bfloat16 as numpy saves it", "complex to real"],
)
def test_values_unfit_for_dtype_are_refused(tmp_path, array):
    np.save(tmp_path / "x.npy", array)
    assert refused(settings_of("file", path=str(tmp_path / "x.npy")), [1, 2]).startswith("input.")


def test_only_files_have_a_content_digest(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.ones(2))
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert inputs.content_digest(settings_of("file", path=str(path))) == expected
    assert inputs.content_digest(settings_of("normal")) is None
    with pytest.raises(ConfigError, match="there is no such file"):
        inputs.content_digest(settings_of("file", path=str(tmp_path / "gone.npy")))
