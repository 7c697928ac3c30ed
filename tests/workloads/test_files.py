"""Workloads from files: reading, refusals, and the identity of runs."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Inside
from tests.results.records import counts, record
from tpbench.engine import TpbenchError, UsageError, get_method
from tpbench.engine.network import stream
from tpbench.engine.parts import Convolution
from tpbench.results import RunStore
from tpbench.search.configurations import load_configuration
from tpbench.training.plan import PackPlan, define_runs, plan_seeds
from tpbench.workloads import WORKLOADS, Workload, get_workload, load_problem
from tpbench.workloads.declarations import Declaration
from tpbench.workloads.own_data import scale_and_shift
from tpbench.workloads.problems import BY_CLASS

KEYS_OF_LETTERS = {
    "name": "letters",
    "data": "letters.npz",
    "network": [8, 6],
    "batch_size": 8,
    "validation_size": 10,
}


def arrays(kind: Any = np.uint8, classes: int = 3) -> dict[str, Any]:
    """60 training and 30 test images of 4 x 5 pixels."""
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (60, 4, 5)).astype(kind),
        "y_train": np.arange(60) % classes,
        "x_test": random.integers(0, 256, (30, 4, 5)).astype(kind),
        "y_test": np.arange(30) % classes,
    }


def write(folder: Path, keys: dict[str, Any] | None = None, data: dict[str, Any] | None = None) -> Path:
    np.savez(folder / "letters.npz", **(arrays() if data is None else data))
    path = folder / "letters.yaml"
    path.write_text(yaml.safe_dump({**KEYS_OF_LETTERS, **(keys or {})}, sort_keys=False, default_flow_style=None))
    return path


def test_a_file_is_a_workload(tmp_path: Path) -> None:
    workload = get_workload(str(write(tmp_path)))
    assert workload.architecture.sizes == (20, 8, 6, 3)
    assert (workload.epochs, workload.random_hidden, workload.prune) == (100, 1024, (6, 0.6))
    assert workload.schedules == {"joint": (0, 0), "sleep": (6, 1), "extra": (10, 4)}
    problem, dataset = load_problem(workload)
    assert problem.training_size == 50
    images = problem.inputs(problem.x_train, torch.float64)
    assert float(images.mean()) == pytest.approx(0, abs=1e-12)
    assert float(images.std(correction=0)) == pytest.approx(1)
    assert dataset.label.startswith("file ")


@pytest.mark.parametrize("column", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.float16, np.float32, ">f8"])
def test_images_and_labels_of_any_kind(tmp_path: Path, kind: Any, column: bool) -> None:
    data = arrays(kind)
    if column:
        data = {name: a[:, None].astype(np.uint16) if name[0] == "y" else a for name, a in data.items()}
    problem, dataset = load_problem(get_workload(str(write(tmp_path, data=data))))
    assert problem.y_train.tolist() == [k % 3 for k in range(60)]
    assert dataset.arrays["x_train"].dtype == np.dtype(kind).newbyteorder("<")


def test_a_share_is_the_test_set(tmp_path: Path) -> None:
    data = {"x": arrays()["x_train"], "y": arrays()["y_train"]}
    workload = get_workload(str(write(tmp_path, {"test": 0.25, "validation_size": 0.2}, data)))
    _, dataset = load_problem(workload)
    assert (len(dataset.arrays["x_test"]), workload.samples, workload.validation_size) == (15, 45, 9)
    whole = np.concatenate([dataset.arrays["x_train"], dataset.arrays["x_test"]])
    assert sorted(map(bytes, whole)) == sorted(map(bytes, data["x"]))


def test_like_fills_in_missing_keys(tmp_path: Path) -> None:
    (tmp_path / "deep.yaml").write_text(
        "name: deep\nlike: mnist-frozen\nnetwork: [9, 9]\nfeedback_epochs: {sleep: [1, 2]}\n"
    )
    deep, frozen = get_workload(str(tmp_path / "deep.yaml")), WORKLOADS["mnist-frozen"]
    assert deep.architecture.sizes == (784, 9, 9, 10)
    assert deep.schedules == {**frozen.schedules, "sleep": (1, 2)}
    for key in ("data", "normalise", "batch_size", "validation_size", "epochs", "trained_layers", "random_hidden"):
        assert getattr(deep, key) == getattr(frozen, key)
    assert not frozen.source
    assert deep.source


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_file_can_declare_what_is_built_in(tmp_path: Path, name: str) -> None:
    workload = WORKLOADS[name]
    path = tmp_path / "copy.yaml"
    path.write_text(replace(workload, name="copy").to_yaml())
    copy = get_workload(str(path))
    assert replace(copy, name=name, title=workload.title, source="") == workload


def test_contents_of_fully_connected_workloads_are_those_of_older_versions() -> None:
    digests = {
        "digits": "f246917db3bd11a3",
        "mnist": "e64241936b322599",
        "mnist-3x256": "3752c133b3154d51",
        "mnist-frozen": "51b004a5f46575a8",
        "fashion-mnist": "a13dd0914a0fc4e2",
        "cifar10": "3455f8f18a719a61",
    }
    assert {name: WORKLOADS[name].content_digest() for name in digests} == digests
    older = WORKLOADS["digits"].plain()
    del older["convolutions"], older["image"]
    assert Workload.from_plain(older) == WORKLOADS["digits"]


# --- convolutions ---

CONVOLUTIONAL = {"network": [{"conv": 4}, {"conv": 2, "kernel": 3, "pool": 1}, 6]}


def samples(*shape: int) -> dict[str, Any]:
    """The letters as samples of another shape."""
    return {name: np.resize(a, (len(a), *shape)) if name[0] == "x" else a for name, a in arrays().items()}


@pytest.mark.parametrize(
    ("shape", "keys", "image"),
    [
        ((4, 5), {}, (4, 5, 1)),
        ((4, 5, 3), {}, (4, 5, 3)),
        ((60,), {"image": [4, 5, 3]}, (4, 5, 3)),
        ((4, 5, 3), {"image": [4, 5, 3]}, (4, 5, 3)),
        ((3, 5, 7), {"image": [3, 5, 7]}, (3, 5, 7)),
    ],
)
def test_convolutions_of_any_images(
    tmp_path: Path, shape: tuple[int, ...], keys: dict[str, Any], image: tuple[int, int, int]
) -> None:
    workload = get_workload(str(write(tmp_path, CONVOLUTIONAL | keys, samples(*shape))))
    network = workload.architecture
    assert (workload.image, network.image) == (image, (image[2], *image[:2]))
    assert network.convolutions == (Convolution(4), Convolution(2, kernel=3, pool=1, stride=1))
    assert workload.hidden == (6,)
    assert network.sizes == (np.prod(image), *(np.prod(shape) for shape in network.maps[1:]), 6, 3)
    assert Workload.from_plain(json.loads(json.dumps(workload.plain()))) == workload
    assert workload.content()["image"] == image
    (tmp_path / "copy.yaml").write_text(workload.to_yaml())
    assert get_workload(str(tmp_path / "copy.yaml")) == workload
    problem, _ = load_problem(workload)
    assert problem.architecture == network


def test_a_convolution_decides_the_digest(tmp_path: Path) -> None:
    def digest(**keys: Any) -> str:
        layer = {"conv": 4, **keys}
        return get_workload(str(write(tmp_path, {"network": [layer, 6]}))).source

    assert digest() == digest(kernel=5, pool=3, stride=2)
    assert len({digest(), digest(kernel=3), digest(pool=5), digest(stride=1), digest(pool=1)}) == 5


def test_like_a_convolutional_network(tmp_path: Path) -> None:
    def like(base: str, **keys: Any) -> Workload:
        path = tmp_path / "like.yaml"
        path.write_text(yaml.safe_dump({"name": "mine", "like": base, **keys}))
        return get_workload(str(path))

    assert like("cifar10-conv", network=[9]).convolutions == ()
    assert like("cifar10-conv", network=[9]).image is None
    assert like("cifar10-conv", data="mnist").image == (28, 28, 1)
    assert like("cifar10-conv", epochs=3).architecture == WORKLOADS["cifar10-conv"].architecture
    assert like("digits", network=[{"conv": 3, "pool": 2}, 9]).architecture.maps == ((1, 8, 8), (3, 4, 4))


@pytest.mark.parametrize(
    ("shape", "keys", "key", "message"),
    [
        ((4, 5), {"network": [{"conv": 4, "kernel": 4}, 6]}, "network", "entry 1: kernel"),
        ((4, 5), {"network": [{"conv": 4}, {"conv": 0}, 6]}, "network", "entry 2, conv"),
        ((4, 5), {"network": [{"conv": 4, "stride": 4}, 6]}, "network", "entry 1: stride"),
        ((4, 5), {"network": [{"conv": 4, "pool": 1, "stride": 2}, 6]}, "network", "entry 1: stride 2 .*'pool: 1'"),
        ((4, 5), {"network": [{"conv": 4, "kernel": 9}, 6]}, "network", "entry 1: .* 9 x 9.* at most 7"),
        ((4, 5), {"network": [{"conv": 4}, {"conv": 4}, 6]}, "network", "entry 2: .* 5 x 5.* at most 3"),
        ((4, 5), {"network": [{"conv": 4, "kernle": 3}, 6]}, "network", "'kernel'"),
        ((4, 5), {"network": [{"kernel": 3}, 6]}, "network", "network, entry 1: .*'conv' is missing"),
        ((4, 5), {"network": [{"conv": 4}, {}, 6]}, "network", "network, entry 2: .*'conv' is missing"),
        ((4, 5), {"network": [6, {"conv": 4}]}, "network", "before"),
        ((4, 5), {"network": [{"conv": 4}]}, "network", "fully connected"),
        ((4, 5), {"network": [*[{"conv": 4, "kernel": 1}] * 4, 6]}, "network", "entry 4: its map of 1 x 1"),
        ((4, 5), {"network": [*[{"conv": 4, "kernel": 1, "pool": 2}] * 3, 6]}, "network", "entry 3: its map of 1 x 1"),
        ((60,), {}, "network", "needs images"),
        ((2, 3, 2, 5), {}, "network", "needs images"),
        ((3, 5, 7), {}, "data", "channels came first"),
        ((4, 5, 3), {"image": [4, 5, 1]}, "image", "4 x 5 x 3"),
        ((60,), {"image": [4, 5, 4]}, "image", "60"),
        ((60,), {"image": [4, 5]}, "image", r"image must be \[rows, columns, channels\]"),
        ((60,), {"image": 60}, "image", r"image must be \[rows, columns, channels\]"),
    ],
)
def test_networks_that_cannot_be_built_are_refused(
    tmp_path: Path, shape: tuple[int, ...], keys: dict[str, Any], key: str, message: str
) -> None:
    path = write(tmp_path, CONVOLUTIONAL | keys, samples(*shape))
    with pytest.raises(UsageError, match=message) as refused:
        get_workload(str(path))
    text = str(refused.value)
    assert "\n" not in text
    line = int(re.search(r"letters\.yaml:(\d+): ", text)[1])  # type: ignore[index]
    above = [line.split(":")[0] for line in path.read_text().splitlines()[:line] if line[0].isalpha()]
    assert above[-1] == key


@pytest.mark.parametrize(("rows", "columns"), [(4, 9), (9, 4)])
def test_the_largest_kernel_has_no_numbers_that_never_meet_the_image(tmp_path: Path, rows: int, columns: int) -> None:
    keys = {"network": [{"conv": 2, "kernel": 7}, 6]}
    workload = get_workload(str(write(tmp_path, keys, samples(rows, columns))))
    (layer,) = workload.convolutions
    assert layer.kernel == layer.largest_kernel((1, rows, columns))
    # The outermost number lies over the last row when the kernel's middle lies over the first.
    assert layer.kernel // 2 == min(rows, columns) - 1


def test_data_of_another_shape_are_not_those_of_the_workload(tmp_path: Path) -> None:
    workload = get_workload(str(write(tmp_path, CONVOLUTIONAL)))
    write(tmp_path, CONVOLUTIONAL, samples(5, 4))
    with pytest.raises(TpbenchError, match="not the data"):
        load_problem(workload)
    dense = get_workload(str(write(tmp_path)))
    write(tmp_path, data=samples(5, 4))
    load_problem(dense)


@pytest.mark.parametrize(
    ("normalise", "kind", "expected"),
    [
        ("none", np.uint8, (1, 0)),
        ("unit", np.uint8, (1 / 255, 0)),
        ([0.5, 0.25], np.uint8, (4 / 255, -2)),
        ([0.5, 0.25], np.float32, (4, -2)),
    ],
)
def test_normalising(normalise: Any, kind: Any, expected: tuple[float, float]) -> None:
    chosen = normalise if isinstance(normalise, str) else tuple(normalise)
    assert scale_and_shift(chosen, np.arange(6, dtype=kind)) == pytest.approx(expected)


@pytest.mark.parametrize("normalise", ["unit", "standard"])
def test_normalising_by_the_data(normalise: str) -> None:
    stored = np.array([[-2.0, 4.0], [1.0, 3.0]])
    scale, shift = scale_and_shift(normalise, stored)
    found = stored * scale + shift
    bounds = (found.min(), found.max()) if normalise == "unit" else (found.mean(), found.std())
    assert bounds == pytest.approx((0, 1))
    with pytest.raises(TpbenchError, match="are 3"):
        scale_and_shift(normalise, np.full((2, 2), 3.0))
    # Of so many tenths the mean is not quite a tenth.
    with pytest.raises(TpbenchError):
        scale_and_shift(normalise, np.full((1437, 16), 0.1))


WRONG_KEYS = [
    ({"name": "mnist"}, 1, "taken"),
    ({"name": "all"}, 1, "taken"),
    ({"name": "Letters"}, 1, "a-z"),
    ({"name": "../up"}, 1, "a-z"),
    ({"name": 7}, 1, "quotes"),
    ({"colour": 3}, 6, "'colour'"),
    ({"netwrk": [3]}, 6, "mean 'network'"),
    ({"data": "absent.npz"}, 2, "absent.npz"),
    ({"data": "letters.csv"}, 2, ".npz"),
    ({"data": "mnst"}, 2, "mean 'mnist'"),
    ({"data": 3}, 2, "data"),
    ({"data": " "}, 2, "data"),
    ({"test": 0.2}, 2, "letters.npz"),
    ({"test": 2}, 6, "less than 1"),
    ({"test": None}, 6, "None"),
    ({"network": []}, 3, "at least 1"),
    ({"network": [0]}, 3, "entry 1"),
    ({"network": [8, 2.5]}, 3, "entry 2"),
    ({"network": [True]}, 3, "True"),
    ({"network": ["a"]}, 3, "'a'"),
    ({"network": [4] * 201}, 3, "200"),
    ({"random_hidden": 0}, 6, "got 0"),
    ({"normalise": "standart"}, 6, "mean 'standard'"),
    ({"normalise": 3}, 6, "'unit'"),
    ({"normalise": [1, 0]}, 6, "entry 2"),
    ({"normalise": [1]}, 6, "entry 2"),
    ({"batch_size": 51}, 4, "50"),
    ({"batch_size": "many"}, 4, "'many'"),
    ({"validation_size": 60}, 5, "59"),
    ({"validation_size": 2.5}, 5, "59"),
    ({"validation_size": 0.001}, 5, "60"),
    ({"epochs": 0}, 6, "epochs"),
    ({"trained_layers": [1, 3]}, 6, "[1, 3]"),
    ({"trained_layers": [4]}, 6, "1 to 3"),
    ({"feedback_epochs": {"slep": [1, 1]}}, 7, "mean 'sleep'"),
    ({"feedback_epochs": {"sleep": [1]}}, 7, "entry 2"),
    ({"feedback_epochs": 3}, 6, "mapping"),
    ({"prune": [6, 2]}, 6, "entry 2"),
    ({"like": "mnst"}, 6, "mean 'mnist'"),
    ({"like": "other.yaml"}, 6, "other.yaml"),
]


@pytest.mark.parametrize(("keys", "line", "word"), WRONG_KEYS)
def test_wrong_keys_are_named_with_their_line(tmp_path: Path, keys: dict[str, Any], line: int, word: str) -> None:
    with pytest.raises(UsageError, match=re.escape(word)) as caught:
        get_workload(str(write(tmp_path, keys)))
    assert f"letters.yaml:{line}: " in str(caught.value)


@pytest.mark.parametrize("key", ["name", "data", "network"])
def test_missing_keys_are_named(tmp_path: Path, key: str) -> None:
    path = write(tmp_path)
    path.write_text(json.dumps({k: v for k, v in KEYS_OF_LETTERS.items() if k != key}))
    with pytest.raises(UsageError, match=rf"letters\.yaml:1: .*'{key}'"):
        get_workload(str(path))


def changed(**found: Any) -> dict[str, Any]:
    return {**arrays(), **found}


WRONG_ARRAYS = [
    ({"x_train": np.zeros((3, 2))}, "x_train"),
    ({**arrays(), "x": np.zeros(3), "y": np.zeros(3)}, "both"),
    (changed(x_train=np.zeros((60, 4, 5), np.int32)), "uint8"),
    (changed(x_train=np.zeros((60, 4, 5), complex)), "uint8"),
    (changed(x_train=np.zeros((60,), np.uint8)), "shape"),
    (changed(x_train=np.full((60, 4, 5), np.nan), x_test=np.zeros((30, 4, 5))), "not finite"),
    (changed(x_test=np.zeros((30, 4, 6), np.uint8)), "kind"),
    (changed(x_train=np.zeros((59, 4, 5), np.uint8)), "59"),
    (changed(y_train=np.zeros(60)), "float64"),
    (changed(y_train=np.zeros((60, 3), int)), "shape"),
    (changed(y_train=np.arange(60) % 3 - 1), "label -1"),
    (changed(y_train=np.arange(60) % 3 + 1), "label 0.*subtract 1"),
    (changed(y_train=np.arange(60) % 3 * 2), "label 1"),
    (changed(y_train=np.zeros(60, int), y_test=np.zeros(30, int)), "one class"),
    (changed(y_test=np.full(30, 3)), "'y_test' .*label 3"),
    ({"x": np.zeros((4, 2)), "y": np.arange(4) % 2}, "test: 0.2"),
    (changed(y_train=np.array([{}] * 60)), "objects"),
    (changed(x_train=np.full((60, 4, 5), 7, np.uint8)), "are 7"),
    (changed(x_train=np.linspace(0, 1e300, 1200).reshape(60, 4, 5), x_test=np.ones((30, 4, 5))), "too large"),
]


@pytest.mark.parametrize(("data", "message"), WRONG_ARRAYS)
def test_wrong_arrays_are_named(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=rf"letters\.yaml:2: .*{message}"):
        get_workload(str(write(tmp_path, data=data)))


@pytest.mark.parametrize("member", ["x_train", "x_train.npy", "y_test.npy"])
@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00\x10\x00{'descr': bad"])
def test_what_is_no_array_is_named(tmp_path: Path, member: str, content: bytes) -> None:
    path = write(tmp_path)
    with zipfile.ZipFile(tmp_path / "letters.npz") as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    kept.pop(f"{member.removesuffix('.npy')}.npy")
    with zipfile.ZipFile(tmp_path / "letters.npz", "w") as archive:
        for name, text in {**kept, member: content}.items():
            archive.writestr(name, text)
    with pytest.raises(UsageError, match=r"letters\.yaml:2: .*damaged"):
        get_workload(str(path))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), length=st.none() | st.integers(0, 4000))
def test_damaged_archives_end_in_one_line(tmp_path: Path, place: int, value: int, length: int | None) -> None:
    path = write(tmp_path)
    content = bytearray((tmp_path / "letters.npz").read_bytes())
    content[place % len(content)] ^= value
    (tmp_path / "letters.npz").write_bytes(content[:length])
    with contextlib.suppress(UsageError):
        get_workload(str(path))


@pytest.mark.parametrize("data", ["a\0.npz", "\ud800.npz", "x" * 300 + ".npz"])
def test_names_that_no_file_has(tmp_path: Path, data: str) -> None:
    write(tmp_path)
    (tmp_path / "w.yaml").write_text(json.dumps({**KEYS_OF_LETTERS, "data": data}))
    with pytest.raises(UsageError, match=r"w\.yaml:1: "):
        get_workload(str(tmp_path / "w.yaml"))


def test_values_that_are_not_written_are_named_with_a_line(tmp_path: Path) -> None:
    """They come from what the workload is like, or belong to the data."""
    np.savez(tmp_path / "few.npz", x=np.arange(80.0).reshape(20, 4), y=np.arange(20) % 2)
    (tmp_path / "few.yaml").write_text("name: few\nlike: mnist\ndata: few.npz\ntest: 0.2\n")
    with pytest.raises(UsageError, match=r"few\.yaml:2: validation_size .*5000"):
        get_workload(str(tmp_path / "few.yaml"))


def test_features_of_a_large_mean_keep_their_differences(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    data = {"x": 1.6e9 + 30 * random.standard_normal((60, 4)), "y": np.arange(60) % 2}
    problem, _ = load_problem(get_workload(str(write(tmp_path, {"test": 0.2}, data))))
    found = problem.inputs(problem.x_train, torch.float32)
    assert float(found.mean()) == pytest.approx(0, abs=1e-5)
    assert float(found.std()) == pytest.approx(1, abs=0.02)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.dictionaries(st.sampled_from([*Declaration.model_fields, "other"]), VALUES, min_size=1, max_size=4),
    junk=st.text(max_size=30),
)
def test_malformed_files_end_in_one_line(
    tmp_path: Path, tpbench_inside: Inside, keys: dict[str, Any], junk: str
) -> None:
    """With hypothesis' values in known keys, and with text that is no YAML at all."""
    path = write(tmp_path, keys)
    for text in (path.read_text(), junk + path.read_text()):
        path.write_text(text, encoding="utf-8")
        ended = tpbench_inside("workloads", "letters.yaml")
        assert ended.returncode in (0, 2)
        assert ended.stderr.count("\n") == (ended.returncode == 2)
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "text", ["a: &a [*a]\nname: x\n", "x: &x [1,1]\ny: &y [*x,*x]\n" + "name: [" + "*y," * 400 + "1]\n"]
)
def test_aliases_do_not_grow_without_end(tmp_path: Path, text: str) -> None:
    (tmp_path / "w.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"w\.yaml"):
        get_workload(str(tmp_path / "w.yaml"))


def identity(workload: Workload) -> tuple[str, str]:
    """Of a run, and how its column is called."""
    _, dataset = load_problem(workload)
    plan = plan_seeds(workload, "bp", workload.complete(get_method("bp"), CONFIGURATION), (0,), 1, {})
    return define_runs(plan, dataset.fingerprint, "float32")[0].id, dataset.label


CONFIGURATION = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}


def test_content_and_data_identify_a_run_and_nothing_else(tmp_path: Path) -> None:
    first = get_workload(str(write(tmp_path)))
    other = tmp_path / "elsewhere"
    other.mkdir()
    path = write(other)
    path.write_text("# spelled otherwise\n" + path.read_text().replace("batch_size: 8", "batch_size: 8.0"))
    assert identity(get_workload(str(path))) == identity(first)
    known = {identity(first)[0]}
    for keys in (
        {"network": [8, 7]},
        {"normalise": "none"},
        {"validation_size": 11},
        {"epochs": 5},
        {"random_hidden": 5},
    ):
        run, label = identity(get_workload(str(write(tmp_path, keys))))
        assert run not in known
        assert label != identity(first)[1]
        known.add(run)
    moved = arrays()
    moved["x_test"][0, 0, 0] ^= 1
    before = (tmp_path / "letters.npz").stat()
    changed = get_workload(str(write(tmp_path, data=moved)))
    assert identity(changed)[0] not in known
    # A copy of the same size that keeps the time, as cp -p and rsync -t make it.
    write(tmp_path)
    assert (tmp_path / "letters.npz").stat().st_size == before.st_size
    os.utime(tmp_path / "letters.npz", ns=(before.st_atime_ns, before.st_mtime_ns))
    run, _ = identity(first)
    write(tmp_path, data=moved)
    os.utime(tmp_path / "letters.npz", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert identity(first)[0] != run


def test_a_plan_travels_as_text(tmp_path: Path) -> None:
    workload = get_workload(str(write(tmp_path, {"trained_layers": [1, 2], "normalise": [0.5, 2]})))
    plan = plan_seeds(workload, "bp", CONFIGURATION, (0, 1), 1, {}, "f" * 64)
    assert PackPlan.from_plain(json.loads(json.dumps(plan.plain()))) == plan


def test_data_that_a_machine_lacks_or_has_otherwise_are_named(tmp_path: Path) -> None:
    workload = get_workload(str(write(tmp_path)))
    (tmp_path / "letters.npz").rename(tmp_path / "moved.npz")
    with pytest.raises(TpbenchError, match="every machine"):
        load_problem(workload)
    write(
        tmp_path, data={**arrays(), "x_train": np.zeros((60, 4, 6), np.uint8), "x_test": np.zeros((30, 4, 6), np.uint8)}
    )
    with pytest.raises(TpbenchError, match="read with"):
        load_problem(workload)


def install(site: Path, module: str, entry: str, group: str = "tpbench.workloads") -> None:
    information = site / f"{module}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{group}]\n{entry} = {module}:FILE\n")


@pytest.mark.parametrize(
    ("entry", "text", "message"),
    [
        ("letters", "FILE = __file__.replace('tp_letters.py', 'letters.yaml')", ""),
        ("other", "FILE = __file__[:-13] + 'letters.yaml'", "'letters'"),
        ("letters", "FILE = 3", ".yaml file"),
        ("letters", "FILE = 'absent.yaml'", "absent.yaml"),
        ("mnist", "FILE = 3", "taken"),
        ("../up", "FILE = 3", "1 to 40"),
        ("itself", "FILE = __file__[:-13] + 'itself.yaml'", "of itself"),
    ],
)
def test_packages_add_workloads(
    tmp_path: Path, tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch, entry: str, text: str, message: str
) -> None:
    site = tmp_path / "site"
    install(site, "tp_letters", entry)
    write(site)
    (site / "tp_letters.py").write_text(text)
    (site / "itself.yaml").write_text("name: itself\nlike: itself\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "tp_letters", raising=False)
    listed = tpbench_inside("workloads")
    assert listed.returncode == 0
    assert "fashion-mnist" in listed.stdout
    if message:
        assert listed.stderr.startswith(f"warning: the workload '{entry}'")
        assert listed.stderr.count("\n") == 1
        assert message in listed.stderr
        return
    assert "20-8-6-3" in listed.stdout
    assert "20-8-6-3" in tpbench_inside("workloads", "letters").stdout
    assert "mean 'letters'" in tpbench_inside("workloads", "lettters").stderr


def test_an_installed_workload_is_told_from_another_of_its_name(tmp_path: Path) -> None:
    """Its source is the digest of what it says, as of any file."""
    workload = get_workload(str(write(tmp_path)))
    assert workload.source == workload.content_digest() != ""


def test_a_run_on_a_file_is_stored_ranked_and_continued(tmp_path: Path, tpbench_inside: Inside) -> None:
    write(tmp_path)
    (tmp_path / "bp.yaml").write_text(yaml.safe_dump(CONFIGURATION))
    command = ("run", "letters.yaml", "bp", "--config", "bp.yaml", "--seeds", "0-2", "--epochs", "2")
    first = tpbench_inside(*command)
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[-1].startswith("letters bp: ")
    assert counts(tpbench_inside(*command).stdout)[:2] == [3, 3]  # stored already
    body = json.loads(next((tmp_path / "results" / "runs").iterdir()).read_text())
    assert body["workload"]["hidden"] == [8, 6]
    assert str(tmp_path) not in json.dumps(body)
    # Another file of that name is another column, and is never answered from the first.
    write(tmp_path, {"network": [9]})
    changed = tpbench_inside(*command)
    assert "already" not in changed.stdout
    board = tpbench_inside("leaderboard", "letters", "--format", "csv").stdout
    assert len({line.split(",")[1] for line in board.splitlines()[1:]}) == 2
    (tmp_path / "letters.yaml").unlink()
    assert tpbench_inside("leaderboard", "letters", "--format", "csv").stdout == board
    assert "mean 'letters'" in tpbench_inside("leaderboard", "leters").stderr
    refused = tpbench_inside("run", "letters.yaml", "bp")
    assert refused.returncode == 2
    assert "letters.yaml" in refused.stderr


def test_a_missing_published_configuration_is_a_usage_error(tmp_path: Path, tpbench_inside: Inside) -> None:
    write(tmp_path)
    refused = tpbench_inside("run", "letters.yaml", "bp")
    assert refused.returncode == 2
    assert "on letters" in refused.stderr


def test_frozen_layers_and_fixed_feedback_do_not_go_together(tmp_path: Path, tpbench_inside: Inside) -> None:
    write(tmp_path, {"trained_layers": [1]})
    for method in ("fa", "dfa"):
        refused = tpbench_inside("run", "letters.yaml", method)
        assert refused.returncode == 2
        assert f"{method} cannot" in refused.stderr


def test_two_workloads_of_one_name_cannot_be_one_campaign(tmp_path: Path, tpbench_inside: Inside) -> None:
    write(tmp_path)
    (tmp_path / "other.yaml").write_text("name: letters\nlike: digits\n")
    refused = tpbench_inside("sweep", "letters.yaml,other.yaml", "bp")
    assert refused.returncode == 2
    assert "'letters'" in refused.stderr


def rare(seed: int, copies: int = 2) -> dict[str, Any]:
    """200 samples of four classes in a random order, and a fifth class of few."""
    random = np.random.default_rng(seed)
    y = random.permutation(np.concatenate([np.arange(200 - copies) % 4, np.full(copies, 4)]))
    return {"x": random.standard_normal((200, 3)).astype(np.float32), "y": y}


def split_before(y: np.ndarray[Any, Any], test: float) -> tuple[Any, Any]:
    """Test and training samples as they were always chosen."""
    order, count = np.random.default_rng(0).permutation(len(y)), round(test * len(y))
    return np.sort(order[:count]), np.sort(order[count:])


def test_a_test_set_leaves_every_class_something_to_train_on(tmp_path: Path) -> None:
    kept = 0
    for seed in range(12):
        data = rare(seed)
        found = load_problem(get_workload(str(write(tmp_path, {"test": 0.3}, data))))[1].arrays
        assert set(found["y_train"]) == set(range(5))
        assert (len(found["y_train"]), len(found["y_test"])) == (140, 60)
        whole = np.concatenate([found["x_train"], found["x_test"]])
        assert sorted(map(bytes, whole)) == sorted(map(bytes, data["x"]))
        chosen, left = split_before(data["y"], 0.3)
        if set(data["y"][left]) == set(range(5)):
            kept += 1
            np.testing.assert_array_equal(found["x_test"], data["x"][chosen])
            np.testing.assert_array_equal(found["x_train"], data["x"][left])
        else:
            # Of every class the share that was asked for.
            for k in range(5):
                assert abs(np.count_nonzero(found["y_test"] == k) - 0.3 * np.count_nonzero(data["y"] == k)) <= 1
    assert 0 < kept < 12


def test_a_class_of_one_sample_is_trained_on(tmp_path: Path) -> None:
    for seed in range(6):
        problem, dataset = load_problem(get_workload(str(write(tmp_path, {"test": 0.3}, rare(seed, copies=1)))))
        assert 4 in dataset.arrays["y_train"]
        for run in range(20):
            assert 4 in problem.y_train[problem.split(run)[0]]


def test_a_split_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    data = {"x": np.random.default_rng(0).standard_normal((20, 3)), "y": np.arange(20) % 10}
    with pytest.raises(UsageError, match=r"letters\.yaml:2: .*split.*x_train"):
        get_workload(str(write(tmp_path, {"test": 0.9}, data)))
    with pytest.raises(UsageError, match=r"letters\.yaml:5: .*10 classes"):
        get_workload(str(write(tmp_path, {"test": 0.25, "validation_size": 6, "batch_size": 2}, data)))


def test_validation_samples_leave_every_class_something_to_train_on(tmp_path: Path) -> None:
    data = rare(0)
    four = {"x_train": data["x"], "y_train": data["y"], "x_test": data["x"], "y_test": data["y"]}
    workload = get_workload(str(write(tmp_path, {"validation_size": 60}, four)))
    problem, _ = load_problem(workload)
    lost = set()
    for seed in range(40):
        order = torch.randperm(200, generator=stream(seed, "split"))
        if 4 not in problem.y_train[order[60:]]:
            lost.add(seed)
        else:  # nothing changes for this seed
            assert torch.equal(torch.cat(problem.split(seed)[::-1]), order)
        training, validation = problem.split(seed)
        assert set(problem.y_train[training].tolist()) == set(range(5))
        assert sorted([*training.tolist(), *validation.tolist()]) == list(range(200))
        assert len(validation) == 60
    assert lost
    bp = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}
    plan = plan_seeds(workload, "bp", bp, tuple(range(40)), 1, {})
    definitions = define_runs(plan, "f" * 64, "float32")
    assert {d.seed for d in definitions if d.split == BY_CLASS} == lost
    # The names of the others are those of the versions before.
    assert {d.seed for d in definitions if "split" in d.plain()} == lost
    assert Workload.from_plain(json.loads(json.dumps(workload.plain()))) == workload


def test_data_that_lose_no_class_keep_splits_and_names(tmp_path: Path) -> None:
    """The digest is that of the versions before."""
    workload = get_workload(str(write(tmp_path)))
    assert workload.source == "aff8ea7ca33d9692"
    problem, _ = load_problem(workload)
    training, validation = problem.split(3)
    assert torch.equal(torch.cat([validation, training]), torch.randperm(60, generator=stream(3, "split")))


@pytest.mark.parametrize(
    ("labels", "recipe"),
    [
        (np.array(["cat", "dog"] * 30), "numpy.unique(y_train, return_inverse=True)"),
        (np.array([b"cat", b"dog"] * 30), "numpy.unique(y_train, return_inverse=True)"),
        (np.array(["cat", "dog"] * 30, dtype=object), "numpy.unique(y_train.astype(str), return_inverse=True)"),
        (np.arange(60.0) % 2, ".astype(int)"),
        (np.arange(60) % 2 == 0, ".astype(int)"),
    ],
)
def test_labels_that_are_no_numbers_are_refused_with_a_recipe(tmp_path: Path, labels: Any, recipe: str) -> None:
    with pytest.raises(UsageError) as caught:
        get_workload(str(write(tmp_path, data=changed(y_train=labels))))
    assert "damaged" not in str(caught.value)
    assert recipe in str(caught.value)


@pytest.mark.parametrize("value", [1e308, 3e38, 1e160])
@pytest.mark.parametrize("normalise", ["standard", "unit", "none", [0.5, 1e-20]])
def test_numbers_too_large_are_one_line_without_numpys_warnings(tmp_path: Path, value: float, normalise: Any) -> None:
    x = (np.linspace(-1, 1, 1200) * value).reshape(60, 4, 5)
    path = write(tmp_path, {"normalise": normalise}, changed(x_train=x, x_test=x[:30]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.suppress(UsageError):
            get_workload(str(path))


@pytest.mark.parametrize("work", ["split", "normalise"])
def test_copies_that_do_not_fit_into_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    def full(needed: int, what: str) -> None:
        raise TpbenchError(f"{what} needs {needed} bytes")

    x = arrays(np.float32)["x_train"] + 0.25 * (work == "split")
    monkeypatch.setattr("tpbench.workloads.own_data.require_memory", full)
    if work == "split":
        path = write(tmp_path, {"test": 0.25}, {"x": x, "y": arrays()["y_train"]})
    else:
        path = write(tmp_path, data=changed(x_train=x, x_test=x[:30]))
    with pytest.raises(UsageError, match="4800"):
        get_workload(str(path))


CHAIN = list(zip("abcdefgh", "bcdefghi", strict=True))
YAML_FAULTS = [
    "name: !!bool foo\n",
    "name: !!int ''\n",
    "name: !!float ''\n",
    "name: !!timestamp foo\n",
    "!!set {a, b}\n",
    'name: "\\UFFFFFFFF"\n',
    "name: !!python/name:os.system x\n",
    "name: !!binary aGk=\n",
    "name: !mine x\n",
    "!mine {name: x}\n",
    "a: &a {<<: *a}\n",
    "&a\n<<: *a\n",
    "<<: 3\n",
    "<<: [1, 2]\n",
    "name: *absent\n",
    "a: &a {b: 1}\n" + "".join(f"{c}: &{c} {{<<: [{f'*{p},' * 9}]}}\n" for p, c in CHAIN),
    "a: &a [1, 1]\n" + "".join(f"{c}: &{c} [{f'*{p},' * 9}]\n" for p, c in CHAIN),
    "epochs: " + "9" * 5000 + "\n",
    "epochs: 1" + "0" * 30 + "\n",
    "name: " + "x" * 200_000 + "\n",
    "x" * 200 + ": 1\n",
    "#" * (1 << 21) + "\n",
    "[" * 20_000,
    "lr: &a [" + "[*a, *a]," * 100 + "]\n",
]
OF_KIND = {
    "workload": ("workloads", "w.yaml"),
    "space": ("sweep", "digits", "bp", "--space", "w.yaml"),
    "configuration": ("run", "digits", "bp", "--config", "w.yaml"),
}


@pytest.mark.parametrize("kind", OF_KIND)
@pytest.mark.parametrize("text", YAML_FAULTS, ids=range(len(YAML_FAULTS)))
def test_every_yaml_file_is_read_with_the_same_limits(
    tmp_path: Path, tpbench_inside: Inside, text: str, kind: str
) -> None:
    for name in ("name", "lr"):
        (tmp_path / "w.yaml").write_text(text.replace("name:", f"{name}:"))
        ended = tpbench_inside(*OF_KIND[kind])
        assert ended.returncode == 2
        assert ended.stderr.startswith("error: ")
        assert ended.stderr.count("\n") == 1
        assert len(ended.stderr) < 2000


@pytest.mark.parametrize("kind", OF_KIND)
@pytest.mark.parametrize("other", ["named pipe", "folder", "device"])
def test_what_is_no_file_is_refused_without_a_wait(
    tmp_path: Path, tpbench_inside: Inside, kind: str, other: str
) -> None:
    path = tmp_path / "w.yaml"
    make = {"named pipe": lambda: os.mkfifo(path), "folder": path.mkdir, "device": lambda: path.symlink_to("/dev/zero")}
    make[other]()
    ended = tpbench_inside(*OF_KIND[kind])
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_a_named_pipe_in_the_place_of_data_is_refused(tmp_path: Path, tpbench_inside: Inside) -> None:
    path = write(tmp_path)
    (tmp_path / "letters.npz").unlink()
    os.mkfifo(tmp_path / "letters.npz")
    assert tpbench_inside("workloads", path.name).returncode == 2
    assert tpbench_inside("data", "import", "mnist", "letters.npz").returncode == 2


def test_merges_are_read(tmp_path: Path) -> None:
    """The file's own entries count, then what is merged first."""
    path = tmp_path / "w.yaml"
    path.write_text("name: w\n<<: [&a {like: mnist, epochs: 3}, {epochs: 4, batch_size: 7}]\nrandom_hidden: 9\n")
    workload = get_workload(str(path))
    assert (workload.epochs, workload.batch_size, workload.random_hidden) == (3, 7, 9)


LONG = "a" * 5000


@pytest.mark.parametrize(
    "command",
    [
        ("leaderboard", "--results", LONG),
        ("results", "check", "--results", LONG),
        ("run", LONG, "bp"),
        ("run", "digits", "bp", "--config", LONG),
        ("sweep", "digits", "bp", "--space", LONG),
        ("workloads", LONG),
        ("workloads", f"{LONG}.yaml"),
        ("data", "import", "mnist", LONG),
        ("data", "get", LONG),
        ("verify", "fixtures", LONG),
        ("results", "pack", f"{LONG}.zip"),
        ("data", "list", "--data", LONG),
        ("run", "mnist", "bp", "--data", LONG),
        ("run", "digits", "bp", "--track", f"tensorboard:{LONG}"),
        ("run", "digits", "bp", "--results", LONG),
        ("results", "merge", LONG, "x"),
        ("report", "--output", LONG),
    ],
    ids=lambda command: " ".join(command).replace(LONG, "LONG"),
)
def test_names_that_are_too_long_are_one_line(tpbench_inside: Inside, command: tuple[str, ...]) -> None:
    ended = tpbench_inside(*command)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    if "Usage:" not in ended.stderr:  # typer's own frame repeats the argument
        assert ended.stderr.count("\n") == 1
        assert len(ended.stderr) < 1000


@pytest.mark.parametrize("folder", [LONG, "/".join(["a"] * 2000)], ids=["long", "deep"])
def test_variables_that_are_too_long(
    tmp_path: Path, tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    RunStore(tmp_path / "results").publish(record())
    monkeypatch.setenv("TPBENCH_CACHE", folder)
    assert tpbench_inside("leaderboard").returncode == 0  # a cache that cannot be written is none
    monkeypatch.setenv("TPBENCH_DATA", folder)
    for command in (("data", "get", "mnist"), ("run", "mnist", "bp")):
        ended = tpbench_inside(*command)
        assert ended.returncode in (1, 2)
        assert ended.stderr.count("\n") == 1
        assert len(ended.stderr) < 6000


def test_a_damaged_data_set_is_marked_and_the_others_are_listed(tmp_path: Path, tpbench_inside: Inside) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in {"mnist": b"\x93NUMPY", "fashion-mnist": b"PK"}.items():
        (folder / f"{name}.npz").write_bytes(content)
    listed = tpbench_inside("data", "list")
    assert listed.returncode == 0
    words = [re.findall(r"[a-z0-9-]+", line) for line in listed.stdout.splitlines()]
    assert ["mnist", "damaged"] in words
    assert ["fashion-mnist", "damaged"] in words
    assert ["cifar10", "not", "there"] in words


@pytest.mark.parametrize("text", ["010", "017", "0x10", "0b11", "1:30"])
def test_a_number_that_readers_take_otherwise_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bp.yaml"
    path.write_text(f"lr: {text}\nbeta1: 0.9\nbeta2: 0.99\nepsilon: 1.0e-8\n")
    with pytest.raises(UsageError):
        load_configuration(get_workload("digits"), "bp", path)
