"""Data sets: import, download path, cache, and every way a file can be wrong."""

from __future__ import annotations

import contextlib
import gzip
import os
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.conftest import Inside
from tpbench.engine import TpbenchError, UsageError
from tpbench.workloads import DATASETS, WORKLOADS, cache, datasets, downloads
from tpbench.workloads.datasets import Arrays
from tpbench.workloads.workload import DatasetSpec, get_dataset


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
    counts = {"train_counts": (3,) * 10, "test_counts": (1,) * 10, "content": None, "known_copies": (), "megabytes": 0}
    for name in ("mnist", "fashion-mnist", "cifar10"):
        monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], **counts))
    # These are not the real files, so their sums are not looked at.
    monkeypatch.setitem(
        DATASETS,
        "cifar10",
        replace(DATASETS["cifar10"], archive=(ARCHIVE, ""), batches=(("data_batch_1", ""), ("test_batch", ""))),
    )


def write_idx(path: Path, array: np.ndarray) -> None:
    """The MNIST files' own format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


def write_mnist(raw: Path, arrays: Arrays) -> None:
    """The four files of MNIST in a folder."""
    for split, stem in (("train", "train"), ("test", "t10k")):
        write_idx(raw / f"{stem}-images-idx3-ubyte", arrays[f"x_{split}"])
        write_idx(raw / f"{stem}-labels-idx1-ubyte", arrays[f"y_{split}"])


def zip_each(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


ARCHIVE, BATCHES = "cifar-10-python.tar.gz", "cifar-10-batches-py"


def write_cifar(root: Path, arrays: Arrays) -> Path:
    """CIFAR-10's batches, as torchvision unpacks them."""
    folder = root / BATCHES
    folder.mkdir(parents=True)
    for split, name in (("train", "data_batch_1"), ("test", "test_batch")):
        rows = arrays[f"x_{split}"].transpose(0, 3, 1, 2).reshape(len(arrays[f"x_{split}"]), -1)
        batch = {"data": rows, "labels": arrays[f"y_{split}"].tolist()}
        (folder / name).write_bytes(pickle.dumps(batch))
    return folder


def archive_cifar(root: Path, folder: Path) -> Path:
    """The archive that the authors publish."""
    with tarfile.open(root / ARCHIVE, "w:gz") as tar:
        tar.add(folder, BATCHES)
    return root / ARCHIVE


def same(name: str, found: cache.Dataset, arrays: Arrays) -> bool:
    """Whether a data set is the one that an .npz file of these arrays makes."""
    return found.name == name and found.fingerprint == datasets.fingerprint(arrays)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("where", ["MNIST/raw", "raw", "."])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_folder_of_torchvisions_is_taken(
    small_specs: None, tmp_path: Path, name: str, where: str, zipped: bool
) -> None:
    root, arrays = tmp_path / "tv", small_arrays()
    raw = root / where.replace("MNIST", get_dataset(name).torchvision_name or "")
    write_mnist(raw, arrays)
    if zipped:
        zip_each(raw)
    assert same(name, cache.load(name, root), arrays)
    cache.obtain(WORKLOADS[name], root, offline=False)  # nothing is missing
    for place in {root, raw, raw.parent if raw.name == "raw" else raw, *raw.iterdir()}:
        assert same(name, cache.import_file(name, place, tmp_path / "cache"), arrays)
    assert same(name, cache.load(name, tmp_path / "cache"), arrays)


def test_a_folder_of_both_data_sets_gives_each_its_own(small_specs: None, tmp_path: Path) -> None:
    """Their files have the same names."""
    for k, (name, folder) in enumerate((("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"))):
        write_mnist(tmp_path / folder / "raw", small_arrays(seed=k))
        assert same(name, cache.load(name, tmp_path), small_arrays(seed=k))
    for place in (tmp_path / "MNIST", tmp_path / "MNIST" / "raw"):
        with pytest.raises(UsageError):
            cache.import_file("fashion-mnist", place, tmp_path / "cache")


def test_files_in_a_folder_without_a_name_are_those_of_the_set_whose_labels_they_have(
    small_specs: None, tmp_path: Path
) -> None:
    write_mnist(tmp_path, small_arrays())
    assert cache.find(DATASETS["mnist"], tmp_path) is not None
    other = replace(DATASETS["fashion-mnist"], train_counts=(4, *(3,) * 8, 2))
    assert cache.find(other, tmp_path) is None


@pytest.mark.parametrize("packed", [False, True])
def test_the_batches_of_cifar10_are_taken(small_specs: None, tmp_path: Path, packed: bool) -> None:
    root, arrays = tmp_path / "tv", small_arrays((32, 32, 3))
    folder = write_cifar(root, arrays)
    places = [root, folder, folder / "test_batch"]
    if packed:
        places = [archive_cifar(root, folder), root]
        for path in folder.iterdir():
            path.unlink()
    for place in places:
        found = cache.import_file("cifar10", place, tmp_path / "cache")
        assert same("cifar10", found, arrays)
        assert found.label == ""
    assert same("cifar10", cache.load("cifar10", root), arrays)


class Evil:
    """What a pickle from outside may hold."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("known", [False, True])
def test_nothing_of_a_pickle_is_executed(
    small_specs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Also where its sum is taken for the published one."""
    monkeypatch.chdir(tmp_path)
    folder = write_cifar(tmp_path, small_arrays((32, 32, 3)))
    if not known:
        spec = get_dataset("cifar10")
        monkeypatch.setitem(DATASETS, "cifar10", replace(spec, batches=(("data_batch_1", "0" * 32),)))
    for content in ({"data": Evil(), "labels": []}, Evil(), [np.load]):
        (folder / "data_batch_1").write_bytes(pickle.dumps(content))
        with pytest.raises(TpbenchError, match="data_batch_1"):
            cache.import_file("cifar10", folder, tmp_path / "cache")
    assert not (tmp_path / "executed").exists()


def test_the_sums_of_cifar10_are_torchvisions() -> None:
    from torchvision.datasets import CIFAR10

    spec = get_dataset("cifar10")
    assert [list(batch) for batch in spec.batches] == [*CIFAR10.train_list, *CIFAR10.test_list]
    assert spec.archive == (CIFAR10.filename, CIFAR10.tgz_md5)
    assert CIFAR10.base_folder == BATCHES


DAMAGES = {
    "cut": lambda content: content[:-5],
    "longer": lambda content: content + b"x",
    "empty": lambda content: b"",
    "other shape": lambda content: content[:7] + b"\xff" + content[8:],
}


@pytest.mark.parametrize("kind", [*DAMAGES, "no gzip", "cut gzip", "bomb"])
def test_a_damaged_idx_file_is_named(small_specs: None, tmp_path: Path, kind: str) -> None:
    write_mnist(tmp_path, small_arrays())
    path = tmp_path / "t10k-images-idx3-ubyte"
    content = path.read_bytes()
    if kind in DAMAGES:
        path.write_bytes(DAMAGES[kind](content))
    else:
        path.unlink()
        path = tmp_path / "t10k-images-idx3-ubyte.gz"
        zipped = gzip.compress(bytes(10**7) if kind == "bomb" else content)
        path.write_bytes({"no gzip": content, "cut gzip": zipped[:50]}.get(kind, zipped))
    with pytest.raises(TpbenchError):
        cache.import_file("mnist", tmp_path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_folder_without_the_files_is_no_missing_file(small_specs: None, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"train-images-idx3-ubyte") as caught:
        cache.import_file("mnist", tmp_path / "empty", tmp_path / "cache")
    assert "no such" not in str(caught.value)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder that a server on this machine gives away, and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("no_proxy", "*")
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: _Quiet(*args, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


def offer_mnist(folder: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch, *mirrors: str) -> None:
    """Have torchvision's class name these files, and these places."""
    write_mnist(folder, arrays)
    zip_each(folder)
    sums = [(path.name, datasets.md5(path)) for path in sorted(folder.iterdir())]
    monkeypatch.setattr("torchvision.datasets.MNIST.resources", sums)
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", list(mirrors))


def test_download_ends_in_the_cache(
    small_specs: None,
    tmp_path: Path,
    served: tuple[Path, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arrays, (folder, address) = small_arrays(), served
    offer_mnist(folder, arrays, monkeypatch, address)
    stored = cache.download("mnist", tmp_path / "cache")
    loaded = cache.load("mnist", tmp_path / "cache")
    assert loaded.fingerprint == stored.fingerprint == datasets.fingerprint(arrays)
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["mnist.npz"]
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 2


def test_the_mirrors_are_tried_in_turn(
    small_specs: None, tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One says nothing once and is gone then, one has no such file, one has another."""
    arrays, (folder, address) = small_arrays(), served
    mute, thread = answering(stays=True)
    (folder / "other").mkdir()
    offer_mnist(folder / "other", small_arrays(seed=3), monkeypatch)
    offer_mnist(folder / "good", arrays, monkeypatch, mute, address, f"{address}other/", f"{address}good/")
    assert cache.download("mnist", tmp_path / "cache", patience=2.0).fingerprint == datasets.fingerprint(arrays)
    thread.join()


def test_the_archive_of_cifar10_is_downloaded(
    small_specs: None, tmp_path: Path, served: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, (folder, address) = small_arrays((32, 32, 3)), served
    path = archive_cifar(folder, write_cifar(tmp_path, arrays))
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", f"{address}{ARCHIVE}")
    spec = get_dataset("cifar10")
    monkeypatch.setitem(DATASETS, "cifar10", replace(spec, archive=(ARCHIVE, datasets.md5(path))))
    found = cache.download("cifar10", tmp_path / "cache")
    assert same("cifar10", found, arrays)
    assert found.label == ""


def refused_download(folder: Path, patience: float = 0.2) -> str:
    """The message of a download that fails and leaves nothing behind."""
    started = time.monotonic()
    with pytest.raises(TpbenchError) as caught:
        cache.download("mnist", folder, patience)
    assert time.monotonic() - started < 100
    assert list(folder.iterdir()) == []
    assert "\n" not in str(caught.value)
    assert "data import" in str(caught.value)
    return str(caught.value)


def test_a_mute_server_ends_with_one_line(tmp_path: Path, mute: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [mute])
    assert "0.2 s" in refused_download(tmp_path / "cache")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_mute_proxy_ends_with_one_line(
    tmp_path: Path, mute: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(f"{scheme}_proxy", mute)
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [f"{scheme}://mirror.invalid/"])
    assert "mirror.invalid: " in refused_download(tmp_path / "cache")


def answering(*parts: bytes, stays: bool = False) -> tuple[str, threading.Thread]:
    """The address of a server that sends these parts to one visitor, and then hangs up or stays until that one does."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(60)

    def serve() -> None:
        with listening, contextlib.suppress(OSError):
            visitor, _ = listening.accept()
            with visitor:
                visitor.recv(10_000)
                for part in parts:
                    visitor.sendall(part)
                if stays:
                    visitor.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    return f"http://127.0.0.1:{listening.getsockname()[1]}/", thread


HEAD = b"HTTP/1.0 200 OK\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    ("parts", "stays", "reason"),
    [
        ((HEAD, b"x" * 10), True, "0.2 s"),
        ((HEAD, b"x" * 10), False, "10"),
        ((HEAD, b"x" * 1000), False, "MD5"),
        ((b"nonsense\r\n\r\n",), False, ""),
        ((b"HTTP/1.0 404 Not Found\r\n\r\n",), False, "404"),
        ((b"HTTP/1.0 200 OK\r\n\r\n", b"x" * 3_000_000), False, "far more"),
    ],
)
def test_servers_that_fail_are_told(
    small_specs: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    parts: tuple[bytes, ...],
    stays: bool,
    reason: str,
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    address, thread = answering(*parts, stays=stays)
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [address])
    assert reason in refused_download(tmp_path / "cache", patience=0.2 if stays else 20)
    thread.join()


def test_progress_is_a_line_a_minute_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 59.0, 61.0, 62.0, 125.0])
    monkeypatch.setattr(downloads, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    lines = downloads.ProgressLines("mnist", 12)
    for _ in range(5):
        lines.advance(1_000_000)
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in said] == ["3", "5"]


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
    "missing array": (wrong("y_test", None), "'y_test'"),
    "wrong type": (wrong("x_train", np.zeros((30, 28, 28))), "uint8.* float64"),
    "wrong shape": (wrong("x_train", np.zeros((30, 27, 28), np.uint8)), r"\(30, 28, 28\)"),
    "too few": (wrong("y_train", np.zeros(29, np.uint8)), r"\(30,\)"),
    "label out of range": (wrong("y_test", np.full(10, 11, np.uint8)), "label 11"),
    "label too large": (wrong("y_test", np.full(10, 256)), "'y_test' .*256"),
    "label negative": (wrong("y_train", np.full((30, 1), -1)), "'y_train' .*-1"),
    "labels no integers": (wrong("y_test", np.zeros(10)), "'y_test' .*float64"),
    "labels of text": (wrong("y_test", np.full(10, "a")), r"'y_test' .* numpy\.unique\(y_test"),
    "labels one number": (wrong("y_test", np.array(3)), r"'y_test' .*\(10,\)"),
    "class counts": (wrong("y_train", np.zeros(30, np.uint8)), "per class"),
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
    with pytest.raises(TpbenchError, match=r"mnist\.npz.*data get"):
        cache.load("mnist", tmp_path)


def test_a_missing_data_set_names_both_commands(tmp_path: Path) -> None:
    with pytest.raises(TpbenchError, match=r"data get.*data import"):
        cache.load("cifar10", tmp_path)


def test_unknown_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mean 'mnist'"):
        cache.load("minst", tmp_path)
    with pytest.raises(UsageError, match="absent"):
        cache.import_file("mnist", tmp_path / "absent.npz", tmp_path)
    with pytest.raises(UsageError):
        cache.import_file("../mnist", tmp_path / "absent.npz", tmp_path)


def test_an_unwritable_cache_is_an_error(small_specs: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TpbenchError, match="written"):
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
    folder = tmp_path / "data"

    def prepared(spec: DatasetSpec, root: Path, patience: float) -> None:
        archive_cifar(root, write_cifar(tmp_path, small_arrays((32, 32, 3))))

    monkeypatch.setattr(cache, "download_files", prepared)
    cache.obtain(WORKLOADS["cifar10"], folder, offline=True)
    assert not folder.exists()
    cache.obtain(WORKLOADS["cifar10"], folder, offline=False)
    assert cache.load("cifar10", folder).name == "cifar10"
    output = capsys.readouterr()
    for part in ("cifar10", "www.cs.toronto.edu", str(folder)):
        assert part in output.err.splitlines()[0]
    assert output.out == ""
    monkeypatch.setattr(cache, "download_files", None)
    cache.obtain(WORKLOADS["cifar10"], folder, offline=False)  # it is there
    cache.obtain(WORKLOADS["digits"], folder, offline=False)


def test_every_data_set_says_how_much_is_downloaded_and_from_where() -> None:
    for spec in DATASETS.values():
        assert spec.megabytes > 10
        assert "." in downloads.download_hosts(spec)


@pytest.mark.parametrize(
    "command",
    [
        ("run", "cifar10", "bp"),
        ("sweep", "cifar10", "ddtp-rhl"),
        ("align", "cifar10", "ddtp-linear"),
        ("run", "cifar10", "bp", "--config", "best"),
        ("reproduce", "--workloads", "cifar10", "--methods", "bp,dfa"),
    ],
)
def test_commands_that_train_download_once_unless_offline(
    tpbench_inside: Inside, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    asked = []

    def unreachable(spec: DatasetSpec, root: Path, patience: float) -> None:
        asked.append(spec.name)
        raise TpbenchError("cifar10 could not be downloaded: no network")

    monkeypatch.setattr(cache, "download_files", unreachable)
    offline = tpbench_inside(*command, "--offline")
    assert asked == []
    assert "data get" in offline.stderr
    monkeypatch.delenv("TPBENCH_OFFLINE")
    ended = tpbench_inside(*command)
    assert asked == ["cifar10"]
    line, error = ended.stderr.splitlines()
    for part in ("cifar10", "170 MB", "www.cs.toronto.edu"):
        assert part in line
    assert "no network" in error
    assert ended.returncode == offline.returncode == 1


def test_a_download_that_is_asked_to_end_leaves_nothing(tmp_path: Path, mute: str) -> None:
    clear = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    started = subprocess.Popen(
        [sys.executable, "-m", "tpbench", "data", "get", "mnist", "--data", str(tmp_path / "data")],
        stderr=subprocess.PIPE,
        text=True,
        env={**clear, "https_proxy": mute, "http_proxy": mute},
    )
    assert started.stderr
    with started:
        assert started.stderr.readline().startswith("downloading mnist")
        until = time.monotonic() + 100
        while not list((tmp_path / "data").glob(".mnist-download-*/*")) and time.monotonic() < until:
            time.sleep(0.05)
        started.terminate()
        said = started.stderr.read()
    assert started.returncode == 130
    assert "Traceback" not in said
    assert list((tmp_path / "data").iterdir()) == []
