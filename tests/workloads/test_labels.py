"""Only the content of data decides whether they are the exact data set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Inside
from tests.workloads.test_cache import small_arrays
from tpbench.engine import UsageError
from tpbench.workloads import DATASETS, cache
from tpbench.workloads.datasets import DOWNLOADED, Arrays, content_digest

EXACT, LOSSY, OTHER = small_arrays(seed=0), small_arrays(seed=1), small_arrays(seed=2)
MARK = content_digest(OTHER)[:8]


@pytest.fixture(autouse=True)
def small_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    """An MNIST of 30 + 10 samples, of which the exact content and a lossy copy are known."""
    spec = replace(
        DATASETS["mnist"],
        train_counts=(3,) * 10,
        test_counts=(1,) * 10,
        content=content_digest(EXACT),
        known_copies=((content_digest(LOSSY), "Scanned copy"),),
    )
    monkeypatch.setitem(DATASETS, "mnist", spec)
    unknown = replace(DATASETS["cifar10"], image_shape=(28, 28), train_counts=(3,) * 10, test_counts=(1,) * 10)
    monkeypatch.setitem(DATASETS, "cifar10", unknown)


def file_of(folder: Path, arrays: Arrays, name: str = "mnist.npz") -> Path:
    np.savez(folder / "x.npz", **arrays)
    return (folder / "x.npz").rename(folder / name)


@pytest.mark.parametrize(
    "label",
    [
        "",
        "exact",
        " Exact ",
        "EXACT",
        "\uff45xact",
        "  ",
        "scanned  COPY",
        "jpeg copy",
        "JPEG copy ",
        f"exact {MARK}",
        "a\nb",
        "a\x00",
        "exact\u200b",
        "\x1b[31mred",
        "x" * 41,
    ],
)
def test_a_label_that_only_content_can_give_is_refused(tmp_path: Path, label: str) -> None:
    path = file_of(tmp_path, OTHER)
    with pytest.raises(UsageError) as caught:
        cache.import_file("mnist", path, tmp_path / "cache", label)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("label", [None, "", "exact", " Exact"])
def test_exact_content_needs_no_label(tmp_path: Path, label: str | None) -> None:
    assert cache.import_file("mnist", file_of(tmp_path, EXACT), tmp_path / "cache", label).label == ""
    assert cache.load("mnist", tmp_path / "cache").label == ""


@pytest.mark.parametrize("label", [None, "scanned copy"])
def test_a_known_copy_keeps_its_label(tmp_path: Path, label: str | None) -> None:
    assert cache.import_file("mnist", file_of(tmp_path, LOSSY), tmp_path / "cache", label).label == "Scanned copy"


@pytest.mark.parametrize(
    ("arrays", "label", "message"),
    [
        (EXACT, "noisy", "exact"),
        (EXACT, "scanned copy", "exact"),
        (LOSSY, "noisy", "Scanned copy"),
        (LOSSY, "", "Scanned copy"),
    ],
)
def test_known_content_gets_no_other_label(tmp_path: Path, arrays: Arrays, label: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cache.import_file("mnist", file_of(tmp_path, arrays), tmp_path / "cache", label)


def test_copies_of_different_content_have_different_labels(tmp_path: Path) -> None:
    labels = {cache.store("mnist", small_arrays(seed=s), tmp_path, "test").label for s in range(2, 6)}
    assert len(labels) == 4
    assert all(label.startswith("unverified copy ") for label in labels)


@pytest.mark.parametrize(
    ("arrays", "written", "label"),
    [
        (OTHER, "", f"unverified copy {MARK}"),
        (OTHER, "exact", f"unverified copy {MARK}"),
        (OTHER, "Scanned copy", f"unverified copy {MARK}"),
        (OTHER, "unverified copy", f"unverified copy {MARK}"),
        (OTHER, "noisy", f"noisy {MARK}"),
        (OTHER, f"{'x' * 40} {MARK}", f"{'x' * 40} {MARK}"),
        (EXACT, "noisy", ""),
        (LOSSY, "", "Scanned copy"),
    ],
)
def test_what_is_written_in_a_cache_file_is_not_trusted(
    tmp_path: Path, arrays: Arrays, written: str, label: str
) -> None:
    meta = {"fingerprint": cache.fingerprint(arrays), "label": written, "source": "torchvision"}
    np.savez(tmp_path / "mnist.npz", tpbench=np.array(json.dumps(meta)), **arrays)
    assert cache.load("mnist", tmp_path).label == label


def test_where_the_exact_content_is_unknown_only_a_download_is_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file_of(tmp_path, OTHER, "torchvision")
    imported = cache.import_file("cifar10", Path("torchvision"), tmp_path / "imported")
    assert imported.label == cache.load("cifar10", tmp_path / "imported").label == f"unverified copy {MARK}"
    file_of(tmp_path, OTHER, "cifar10.npz")
    assert cache.load("cifar10", tmp_path).label == f"unverified copy {MARK}"
    monkeypatch.setattr(cache, "download_files", lambda *_: None)
    monkeypatch.setattr(cache, "find_published", lambda _, place: place)
    monkeypatch.setattr(cache, "read_published", lambda *_: (OTHER, DOWNLOADED))
    assert cache.download("cifar10", tmp_path / "cache").label == ""
    assert cache.load("cifar10", tmp_path / "cache").label == ""


def test_the_command_line_refuses_a_false_label_in_one_line(tmp_path: Path, tpbench_inside: Inside) -> None:
    file_of(tmp_path, OTHER, "copy.npz")
    refused = tpbench_inside("data", "import", "mnist", "copy.npz", "--label", "exact")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "content" in refused.stderr
    taken = tpbench_inside("data", "import", "mnist", "copy.npz", "--label", "noisy")
    assert f"mnist (noisy {MARK}): ready" in taken.stdout
    assert f"ready (noisy {MARK})" in tpbench_inside("data", "list").stdout
