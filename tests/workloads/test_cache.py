"""Data sets: import, download path, cache, and every way a file can be wrong."""

from __future__ import annotations

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torchvision

from tests.conftest import Inside
from tpbench.engine import TpbenchError, UsageError
from tpbench.workloads import WORKLOADS, cache, datasets, specs
from tpbench.workloads.datasets import Arrays
from tpbench.workloads.specs import DatasetSpec


def small_arrays(shape: tuple[int, ...] = (28, 28), seed: int = 0) -> Arrays:
    """Three samples of each of ten classes for training, one for testing."""
    generator = np.random.default_rng(seed)
    return {
        "x_train": generator.integers(0, 256, (30, *shape), dtype=np.uint8),
        "y_train": np.arange(30, dtype=np.uint8) % 10,
        "x_test": generator.integers(0, 256, (10, *shape), dtype=np.uint8),
        "y_test": np.arange(10, dtype=np.uint8),
    }


@pytest.fixture
def small_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data sets as if they were published with 30 + 10 samples."""
    for name, shape, vision in (("mnist", (28, 28), "MNIST"), ("cifar10", (32, 32, 3), "CIFAR10")):
        monkeypatch.setitem(specs.DATASETS, name, DatasetSpec(name, shape, (3,) * 10, (1,) * 10, vision))


def write_idx(path: Path, array: np.ndarray) -> None:
    """The MNIST files' own format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_mnist(root: Path, arrays: Arrays) -> None:
    raw = root / "MNIST" / "raw"
    for split, stem in (("train", "train"), ("test", "t10k")):
        write_idx(raw / f"{stem}-images-idx3-ubyte", arrays[f"x_{split}"])
        write_idx(raw / f"{stem}-labels-idx1-ubyte", arrays[f"y_{split}"])


def write_cifar(root: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10 batches in torchvision's format; its list of checksums is emptied, since these are not the real ones."""
    folder = root / torchvision.datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)
    for split, name in (("train", "data_batch_1"), ("test", "test_batch")):
        rows = arrays[f"x_{split}"].transpose(0, 3, 1, 2).reshape(len(arrays[f"x_{split}"]), -1)
        batch = {"data": rows, "labels": arrays[f"y_{split}"].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(k) for k in range(10)]}))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", [("data_batch_1", None)])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", [("test_batch", None)])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": None}
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "meta", meta)


def test_mnist_through_torchvision(small_specs: None, tmp_path: Path) -> None:
    arrays = small_arrays()
    write_mnist(tmp_path, arrays)
    read = datasets.read_torchvision(specs.get_dataset("mnist"), tmp_path, download=True)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_cifar10_through_torchvision(small_specs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = small_arrays((32, 32, 3))
    write_cifar(tmp_path, arrays, monkeypatch)
    read = datasets.read_torchvision(specs.get_dataset("cifar10"), tmp_path, download=True)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read[name], array)


def test_download_ends_in_the_cache(small_specs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, real = small_arrays(), datasets.read_torchvision

    def prepared(spec: DatasetSpec, root: Path) -> Arrays:
        write_mnist(root, arrays)
        return real(spec, root)

    monkeypatch.setattr(cache, "read_torchvision", prepared)
    stored = cache.download("mnist", tmp_path)
    loaded = cache.load("mnist", tmp_path)
    assert loaded.fingerprint == stored.fingerprint == datasets.fingerprint(arrays)
    assert loaded.label == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mnist.npz"]


def test_a_failed_download_names_the_import(small_specs: None, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (raw / f"{stem}-ubyte").write_bytes(gzip.compress(b"nothing"))
    with pytest.raises(TpbenchError, match=r"tpbench data import mnist FILE\.npz"):
        datasets.read_torchvision(specs.get_dataset("mnist"), tmp_path, download=False)


def test_import_then_load(small_specs: None, tmp_path: Path) -> None:
    np.savez(tmp_path / "keras.npz", **small_arrays())
    stored = cache.import_file("mnist", tmp_path / "keras.npz", tmp_path / "cache")
    mark = datasets.content_digest(small_arrays())[:8]
    assert stored.label == f"unverified copy {mark}"
    assert cache.load("mnist", tmp_path / "cache").fingerprint == stored.fingerprint
    assert cache.load("mnist", tmp_path / "cache").label == stored.label
    named = cache.import_file("mnist", tmp_path / "keras.npz", tmp_path / "cache", "my copy")
    again = cache.import_file("mnist", tmp_path / "keras.npz", tmp_path / "cache", named.label)
    assert named.label == again.label == cache.load("mnist", tmp_path / "cache").label == f"my copy {mark}"


@pytest.mark.parametrize("kind", ["int64", "uint8", ">i4"])
@pytest.mark.parametrize("column", [True, False])
def test_labels_of_any_integer_type_are_taken(small_specs: None, tmp_path: Path, kind: str, column: bool) -> None:
    arrays = small_arrays()
    labels = {name: arrays[name].astype(kind) for name in ("y_train", "y_test")}
    keras = {**arrays, **{name: array[:, None] if column else array for name, array in labels.items()}}
    (tmp_path / "by-hand").mkdir()
    np.savez(tmp_path / "by-hand" / "mnist.npz", **keras)
    imported = cache.import_file("mnist", tmp_path / "by-hand" / "mnist.npz", tmp_path / "cache")
    by_hand = cache.load("mnist", tmp_path / "by-hand")
    assert imported.fingerprint == by_hand.fingerprint == datasets.fingerprint(arrays)
    assert imported.label == by_hand.label
    np.testing.assert_array_equal(by_hand.arrays["y_test"], arrays["y_test"])


def wrong(name: str, array: np.ndarray | None) -> Arrays:
    arrays = {**small_arrays(), name: array}
    return {key: value for key, value in arrays.items() if value is not None}


WRONG = {
    "missing array": (wrong("y_test", None), "'y_test' is missing"),
    "wrong type": (wrong("x_train", np.zeros((30, 28, 28))), "must be uint8, got float64"),
    "wrong shape": (wrong("x_train", np.zeros((30, 27, 28), np.uint8)), r"must have the shape \(30, 28, 28\)"),
    "too few": (wrong("y_train", np.zeros(29, np.uint8)), r"must have the shape \(30,\)"),
    "label out of range": (wrong("y_test", np.full(10, 11, np.uint8)), "holds the label 11; there are 10 classes"),
    "label too large": (wrong("y_test", np.full(10, 256)), "'y_test' holds the label 256, which no class has"),
    "label negative": (wrong("y_train", np.full((30, 1), -1)), "'y_train' holds the label -1, which no class has"),
    "labels no integers": (wrong("y_test", np.zeros(10)), "'y_test' must hold integers, got float64"),
    "labels no numbers": (wrong("y_test", np.full(10, "a")), "'y_test' must hold integers, got <U1"),
    "labels one number": (wrong("y_test", np.array(3)), r"'y_test' must have the shape \(10,\)"),
    "class counts": (wrong("y_train", np.zeros(30, np.uint8)), "samples per class"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_refused_and_leaves_no_cache(small_specs: None, tmp_path: Path, kind: str) -> None:
    arrays, message = WRONG[kind]
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(TpbenchError, match=message) as caught:
        cache.import_file("mnist", tmp_path / "bad.npz", tmp_path / "cache")
    assert "bad.npz" in str(caught.value)
    assert not (tmp_path / "cache" / "mnist.npz").exists()


@pytest.mark.parametrize("keep", [0, 10, 1000, -30])
def test_a_truncated_file_is_refused(small_specs: None, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cut.npz"
    np.savez(path, **small_arrays())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TpbenchError, match=r"cut\.npz: damaged"):
        cache.import_file("mnist", path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_pickled_objects_are_not_loaded(small_specs: None, tmp_path: Path) -> None:
    arrays = {**small_arrays(), "x_train": np.array([{"a": 1}], dtype=object)}
    np.savez(tmp_path / "evil.npz", **arrays)
    with pytest.raises(TpbenchError, match="damaged"):
        cache.import_file("mnist", tmp_path / "evil.npz", tmp_path / "cache")


def test_a_damaged_cache_names_the_file_and_the_remedy(small_specs: None, tmp_path: Path) -> None:
    cache.store("mnist", small_arrays(), tmp_path, "test")
    path = tmp_path / "mnist.npz"
    contents = bytearray(path.read_bytes())
    contents[2000] ^= 1
    path.write_bytes(contents)
    with pytest.raises(TpbenchError, match=r"mnist\.npz.*tpbench data get mnist"):
        cache.load("mnist", tmp_path)


def test_a_missing_data_set_names_both_commands(tmp_path: Path) -> None:
    with pytest.raises(TpbenchError, match=r"tpbench data get cifar10.*tpbench data import cifar10 FILE\.npz"):
        cache.load("cifar10", tmp_path)


def test_unknown_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'mnist'"):
        cache.load("minst", tmp_path)
    with pytest.raises(UsageError, match="no such file"):
        cache.import_file("mnist", tmp_path / "absent.npz", tmp_path)
    with pytest.raises(UsageError):
        cache.import_file("../mnist", tmp_path / "absent.npz", tmp_path)


def test_an_unwritable_cache_is_an_error(small_specs: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TpbenchError, match="could not be written"):
        cache.store("mnist", small_arrays(), tmp_path / "file", "test")


def test_digits_are_embedded() -> None:
    digits = cache.load("digits")
    assert digits.arrays["x_train"].shape == (1437, 64)
    assert digits.arrays["x_test"].shape == (360, 64)
    assert digits.fingerprint == cache.load("digits").fingerprint


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_real_files_are_recognised_as_exact(shared_data: Path, name: str) -> None:
    assert cache.load(name, shared_data).label == ""


def test_a_missing_data_set_is_downloaded_and_said(
    small_specs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, folder = datasets.read_torchvision, tmp_path / "data"

    def prepared(spec: DatasetSpec, root: Path) -> Arrays:
        write_cifar(root, small_arrays((32, 32, 3)), monkeypatch)
        return real(spec, root)

    monkeypatch.setattr(cache, "read_torchvision", prepared)
    cache.obtain(WORKLOADS["cifar10"], folder, offline=True)
    assert not folder.exists()
    cache.obtain(WORKLOADS["cifar10"], folder, offline=False)
    assert cache.load("cifar10", folder).name == "cifar10"
    said = capsys.readouterr()
    assert said.err == f"downloading cifar10 (0 MB) from www.cs.toronto.edu to {folder}\n"
    assert said.out == ""
    monkeypatch.setattr(cache, "read_torchvision", None)
    cache.obtain(WORKLOADS["cifar10"], folder, offline=False)  # it is there
    cache.obtain(WORKLOADS["digits"], folder, offline=False)


def test_every_data_set_says_how_much_is_downloaded_and_from_where() -> None:
    for spec in specs.DATASETS.values():
        assert spec.megabytes > 10
        assert "." in datasets.download_source(spec)


@pytest.mark.parametrize(
    "command",
    [
        ("run", "cifar10", "bp"), ("sweep", "cifar10", "ddtp-rhl"), ("align", "cifar10", "ddtp-linear"),
        ("run", "cifar10", "bp", "--config", "best"), ("reproduce", "--workloads", "cifar10", "--methods", "bp,dfa"),
    ],
)  # fmt: skip
def test_commands_that_train_download_once_unless_offline(
    tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    asked = []

    def unreachable(spec: DatasetSpec, root: Path) -> Arrays:
        asked.append(spec.name)
        raise TpbenchError("torchvision could not provide cifar10: no network")

    monkeypatch.setattr(cache, "read_torchvision", unreachable)
    offline = tpbench_inside(*command, "--offline")
    assert asked == []
    assert "download it with 'tpbench data get cifar10'" in offline.stderr
    monkeypatch.delenv("TPBENCH_OFFLINE")
    ended = tpbench_inside(*command)
    assert asked == ["cifar10"]
    said, error = ended.stderr.splitlines()
    assert said.startswith("downloading cifar10 (170 MB) from www.cs.toronto.edu to ")
    assert "could not provide cifar10: no network" in error
    assert ended.returncode == offline.returncode == 1
