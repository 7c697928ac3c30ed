"""Network files: damage, names, other stores. The networks are made up."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import tpbench
from tests.conftest import Inside
from tests.results.records import counts, record
from tpbench.engine import TpbenchError, UsageError
from tpbench.engine.parts import Convolution, convolutional
from tpbench.results import RunRecord, RunStore
from tpbench.results import networks as module
from tpbench.results.artifacts import NewerFormat
from tpbench.results.location import location
from tpbench.results.maintenance import check_store, merge_stores
from tpbench.results.modules import export_network, sequential
from tpbench.results.networks import (
    NETWORKS,
    TrainedNetwork,
    WrongNetwork,
    has_network,
    network_of,
    read_network,
    save_network,
)
from tpbench.results.opening import find_record


def network(run: RunRecord, number: float = 1.0) -> TrainedNetwork:
    arrays = {
        "forward.1.weight": np.full((3, 2), number, np.float32),
        "forward.1.bias": np.zeros(3, np.float32),
        "forward.2.weight": np.ones((2, 3), np.float32),
        "forward.2.bias": np.arange(2, dtype=np.float32),
        "feedback.1.weight": np.ones((3, 2), np.float32),
    }
    d = run.definition
    return TrainedNetwork(
        d.id,
        d.workload,
        d.method,
        d.seed,
        run.precision,
        1,
        0.02,
        0.03,
        run.curves_digest,
        (2, 3, 2),
        0.1 / 3,
        -0.5,
        arrays,
    )


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    """Three runs with their networks."""
    made = RunStore(tmp_path / "results")
    for seed in range(3):
        save_network(made, network(record(seed=seed)))
        made.publish(record(seed=seed))
    return made


CONVOLUTIONS = (Convolution(4, kernel=3), Convolution(2, kernel=1, pool=1, stride=1), Convolution(3, kernel=5, pool=2))


def convolutional_network(run: RunRecord) -> TrainedNetwork:
    """Three convolutions over images of 7 x 6 pixels and 2 channels, then 5 units and 4 outputs; random numbers."""
    architecture = convolutional((2, 7, 6), CONVOLUTIONS, [5, 4])
    shapes = [(4, 2, 3, 3), (2, 4, 1, 1), (3, 2, 5, 5), (5, architecture.sizes[3]), (4, 5)]
    random, arrays = np.random.default_rng(0), {}
    for layer, shape in enumerate(shapes, start=1):
        arrays[f"forward.{layer}.weight"] = random.normal(0, 0.3, shape).astype(np.float32)
        arrays[f"forward.{layer}.bias"] = random.normal(0, 0.3, shape[:1]).astype(np.float32)
    dense = network(run)
    return replace(dense, sizes=architecture.sizes, convolutions=CONVOLUTIONS, image=architecture.image, arrays=arrays)


CONTENT = network(record()).to_bytes()


def test_a_file_holds_the_network_and_is_the_same_every_time() -> None:
    made = TrainedNetwork.from_bytes(CONTENT, "x")
    assert made.to_bytes() == CONTENT
    assert replace(made, arrays={}) == replace(network(record()), arrays={})
    assert all(np.array_equal(made.arrays[name], values) for name, values in network(record()).arrays.items())


@settings(max_examples=150)
@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255), st.booleans())
def test_any_damage_is_found(place: int, change: int, cut: bool) -> None:
    damaged = CONTENT[:place] if cut else CONTENT[:place] + bytes([CONTENT[place] ^ change]) + CONTENT[place + 1 :]
    with pytest.raises(TpbenchError, match=r"^x: .*delete it: 'tpbench run"):
        TrainedNetwork.from_bytes(damaged, "x")


def test_more_than_a_network_is_none_and_a_newer_one_is_never_replaced(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WrongNetwork):
        TrainedNetwork.from_bytes(CONTENT + b"\0" * 4, "x")
    path = NETWORKS.path(store.folder, record().definition.id)
    monkeypatch.setattr(TrainedNetwork, "format", 1 + module.FORMAT)
    path.write_bytes(newer := network(record()).to_bytes())
    monkeypatch.undo()
    with pytest.raises(NewerFormat, match="newer"):
        save_network(store, network(record()))
    assert path.read_bytes() == newer


@pytest.mark.parametrize(
    "name", ["../evil", "", "a" * 23, "A" * 24, "a" * 24 + "\n", "/etc/passwd", "runs/" + "a" * 24]
)
def test_what_is_no_id_becomes_no_path(store: RunStore, name: str) -> None:
    with pytest.raises(ValueError, match="network"):
        NETWORKS.path(store.folder, name)
    with pytest.raises(UsageError):
        tpbench.load_network(store.folder, name)


def test_a_network_of_another_name_or_training_is_refused(store: RunStore) -> None:
    run, other = record(seed=0), record(seed=1)
    NETWORKS.path(store.folder, run.definition.id).write_bytes(network(other).to_bytes())
    with pytest.raises(WrongNetwork, match=other.definition.id):
        tpbench.load_network(store.folder, run.definition.id)
    again = replace(network(run), curves="0" * 64)
    NETWORKS.path(store.folder, run.definition.id).write_bytes(again.to_bytes())
    with pytest.raises(WrongNetwork, match="another training"):
        network_of(store, run)
    # What is of another training, or damaged, makes way; what is the run's stays.
    save_network(store, network(run))
    assert network_of(store, run).curves == run.curves_digest
    before = NETWORKS.path(store.folder, run.definition.id).stat().st_mtime_ns
    save_network(store, network(run, 2.0))
    assert NETWORKS.path(store.folder, run.definition.id).stat().st_mtime_ns == before


def test_a_run_is_found_by_the_beginning_of_its_id(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    run = record(seed=2)
    assert find_record(store, f" {run.definition.id[:8].upper()}") == run
    wrong = ("0" if run.definition.id[0] != "0" else "1") + run.definition.id[1:]
    for text, message in (
        (wrong, f"holds no run '{wrong}': did you mean {run.definition.id}"),
        ("f" * 10 + "0", "holds no run '.*'; 'tpbench results export FILE.csv' lists its runs"),
        (run.definition.id[:7], "write the 24 hex digits .* or at least the first 8"),
        ("bp-on-mnist", "write the 24 hex digits"),
    ):
        with pytest.raises(UsageError, match=message):
            find_record(store, text)
    monkeypatch.setattr(RunStore, "ids", lambda _: [f"0123456{k}" + "a" * 16 for k in "777"])
    with pytest.raises(UsageError, match="3 runs"):
        find_record(store, "01234567")
    with pytest.raises(UsageError, match=r"'.*results'"):
        tpbench.load_network(store.folder.parent / "resluts", "01234567")


def test_what_cannot_be_read_is_not_taken_for_missing(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: Path, largest: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tpbench.results.artifacts.read_bytes", broken)
    with pytest.raises(TpbenchError, match="Permission denied"):
        has_network(store, record())


def test_check_names_damage_and_takes_orphans_for_no_harm(store: RunStore, tpbench_inside: Inside) -> None:
    save_network(store, network(record(seed=9)))
    (store.folder / "networks" / "notes.safetensors").write_bytes(b"somebody's own")
    checked = tpbench_inside("results", "check")
    assert checked.returncode == 0, checked.stderr
    assert counts(checked.stdout)[-3:] == [4, 1, 0]
    path = NETWORKS.path(store.folder, record(seed=1).definition.id)
    path.write_bytes(path.read_bytes()[:-1])
    checked = tpbench_inside("results", "check")
    assert checked.returncode == 1
    assert f"{path.name}: " in checked.stderr
    assert counts(checked.stdout)[:2] == [3, 0]
    assert check_store(RunStore(store.folder / "absent"))[NETWORKS].valid == 0


def test_merge_takes_networks_along(store: RunStore, tmp_path: Path, tpbench_inside: Inside) -> None:
    into = RunStore(tmp_path / "into")
    # This one was trained elsewhere to other digits: the network is not that of its run.
    into.publish(record(seed=2, errors=[0.5, 0.021]))
    path = NETWORKS.path(store.folder, record(seed=1).definition.id)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    first = tpbench_inside("results", "merge", "results", "into")
    assert counts(first.stdout) == [2, 0, 1]
    assert first.returncode == 1  # the run whose curves differ is a conflict
    assert path.name in first.stderr
    assert f"network of {record(seed=2).definition.id} " in first.stderr
    path.write_bytes(content)
    assert counts(tpbench_inside("results", "merge", "results", "into").stdout)[2:] == [1]
    ids = [record(seed=seed).definition.id for seed in (0, 1)]
    assert NETWORKS.names_in(into.folder) == sorted(ids)
    for run_id in ids:
        assert NETWORKS.path(into.folder, run_id).read_bytes() == NETWORKS.path(store.folder, run_id).read_bytes()


def test_networks_lie_in_object_stores_too(store: RunStore) -> None:
    remote = RunStore(location(f"memory://{uuid.uuid4().hex}/store"))
    assert NETWORKS.names_in(remote.folder) == []
    assert read_network(remote, "0" * 24) is None
    merged = merge_stores(store, remote)
    assert (merged.networks, merged.problems) == (3, [])
    found = check_store(remote)[NETWORKS]
    assert (found.valid, found.wrong, found.orphans) == (3, [], 0)
    made = tpbench.load_network(str(remote.folder), record().definition.id[:10], normalise=False)
    assert [type(layer).__name__ for layer in made] == ["Flatten", "Linear", "Tanh", "Linear"]


def test_a_file_holds_convolutions(store: RunStore) -> None:
    made = convolutional_network(record())
    read = TrainedNetwork.from_bytes(made.to_bytes(), "x")
    assert replace(read, arrays={}) == replace(made, arrays={})
    assert str(read.architecture) == "7x6x2-conv4-conv2-conv3-5-4"
    assert _header(made.to_bytes())["format"] == 2
    # As older versions wrote and read it.
    dense = _header(CONTENT)
    assert dense["format"] == 1
    assert not {"convolutions", "image"} & set(dense)


@pytest.mark.parametrize(
    "change",
    [
        {"image": (2, 7, 7)},
        {"convolutions": CONVOLUTIONS[:2]},
        {"convolutions": (Convolution(4), *CONVOLUTIONS[1:])},
        {"sizes": (84, 5, 4)},
    ],
)
def test_convolutions_that_do_not_fit_are_no_network(change: dict[str, Any]) -> None:
    made = convolutional_network(record())
    with pytest.raises(WrongNetwork, match="not a valid network"):
        TrainedNetwork.from_bytes(replace(made, **change).to_bytes(), "x")


def test_a_module_computes_convolutions_pooling_and_tanh() -> None:
    made = convolutional_network(record())
    images = np.random.default_rng(1).integers(0, 256, (9, 7, 6, 2)).astype(np.uint8)
    inputs = images * made.scale + made.shift
    expected = _naive_outputs(made, inputs)
    module = sequential(made)
    assert module(torch.from_numpy(images)).detach().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    rows = torch.from_numpy(images.reshape(9, -1))
    assert torch.equal(module(rows), module(torch.from_numpy(images)))
    unnormalised = sequential(made, normalise=False)(torch.from_numpy(inputs.astype(np.float32)))
    assert unnormalised.detach().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def _naive_outputs(made: TrainedNetwork, inputs: NDArray[Any]) -> NDArray[Any]:
    """The outputs (B, n_L) of images (B, rows, columns, channels), one window after the other."""
    h = inputs.transpose(0, 3, 1, 2)
    for i, layer in enumerate(made.convolutions, start=1):
        weight, bias = made.arrays[f"forward.{i}.weight"], made.arrays[f"forward.{i}.bias"]
        p, (rows, columns) = layer.kernel // 2, h.shape[2:]
        padded = np.pad(h, [(0, 0), (0, 0), (p, p), (p, p)])
        a = np.empty((len(h), layer.channels, rows, columns))
        for r, c in np.ndindex(rows, columns):
            window = padded[:, :, r : r + layer.kernel, c : c + layer.kernel]
            a[:, :, r, c] = np.einsum("bdij,cdij->bc", window, weight) + bias
        h = np.tanh(a)
        _, below, beside = layer.output((layer.channels, rows, columns))
        p = (layer.pool - 1) // 2
        padded = np.pad(h, [(0, 0), (0, 0), (p, layer.pool), (p, layer.pool)], constant_values=-9.0)
        pooled = np.empty((len(h), layer.channels, below, beside))
        for r, c in np.ndindex(below, beside):
            first, left = r * layer.stride, c * layer.stride
            pooled[:, :, r, c] = padded[:, :, first : first + layer.pool, left : left + layer.pool].max((2, 3))
        h = pooled
    h = h.reshape(len(h), -1)
    depth = len(made.sizes) - 1
    for i in range(len(made.convolutions) + 1, depth + 1):
        a = h @ made.arrays[f"forward.{i}.weight"].T + made.arrays[f"forward.{i}.bias"]
        h = np.tanh(a) if i < depth else a
    return h


def test_exported_convolutions_have_the_names_of_the_module(store: RunStore, tmp_path: Path) -> None:
    run = record(seed=7)
    save_network(store, made := convolutional_network(run))
    store.publish(run)
    export_network(store, run.definition.id, tmp_path / "net.npz")
    exported = np.load(tmp_path / "net.npz")
    places = {1: 1, 2: 4, 3: 6, 4: 10, 5: 12}
    assert set(exported) == {f"{place}.{kind}" for place in places.values() for kind in ("weight", "bias")}
    for layer, place in places.items():
        assert np.array_equal(exported[f"{place}.weight"], made.arrays[f"forward.{layer}.weight"])
    export_network(store, run.definition.id, tmp_path / "net.safetensors")
    about = _header((tmp_path / "net.safetensors").read_bytes())
    assert (about["image"], about["convolutions"][2]["pool"]) == ([2, 7, 6], 2)


def _header(content: bytes) -> Any:
    """The description in a safetensors file."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return json.loads(header["__metadata__"]["tpbench"])


def test_exporting_checks_the_target_first(store: RunStore, tmp_path: Path, tpbench_inside: Inside) -> None:
    run_id = record().definition.id
    for arguments, code, message in (
        ((run_id, "net.onnx"), 2, "'net.onnx': its name must end in .npz or .pt or .safetensors"),
        ((run_id, "results.pt/x.pt"), 1, "it is no folder"),
        (("0" * 24, "net.pt"), 2, "holds no run"),
        ((run_id, "net.pt", "--results", "resluts"), 2, "did you mean 'results'?"),
    ):
        (tmp_path / "results.pt").touch()
        ended = tpbench_inside("results", "export-network", *arguments)
        assert (ended.returncode, message in ended.stderr) == (code, True), ended.stderr
    assert not (tmp_path / "net.pt").exists()
    assert tpbench_inside("results", "export-network", run_id[:8], "net.safetensors").returncode == 0
    about = _header((tmp_path / "net.safetensors").read_bytes())
    assert about == {"run": run_id, "sizes": [2, 3, 2], "scale": 0.1 / 3, "shift": -0.5}
