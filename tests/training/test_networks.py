"""Networks that are kept beside their runs: what is in them, and what interruptions leave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle

import tpbench
from tests.conftest import CONFIGURATION, Inside
from tests.documents import DOCUMENTS
from tests.training.memory import allow_one_member
from tests.training.test_packs import InterruptedTrainingError
from tpbench.engine import METHODS, EpochReport, TpbenchError, Trainer
from tpbench.results import RunRecord, RunStore
from tpbench.results.maintenance import check_store
from tpbench.results.networks import NETWORKS, has_network, read_network
from tpbench.sweeps.sweep import QueuedPack
from tpbench.training.pack import PackJob, array_name
from tpbench.training.plan import PackPlan, PackSettings, plan_seeds
from tpbench.workloads import WORKLOADS, Workload, load_problem
from tpbench.workloads.declarations import read_workload


def keeping(folder: Path, **more: Any) -> PackSettings:
    return PackSettings(str(folder), keep_networks=True, **more)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "networks").iterdir()}


def plan_of(workload: Workload, method: str, seeds: tuple[int, ...] = (0, 1)) -> PackPlan:
    given = {k: CONFIGURATION[k] for k in METHODS[method].hyperparameters}
    return plan_seeds(workload, method, workload.complete(METHODS[method], given), seeds, 2, {})


def error_of(folder: Path, workload: Workload, run: RunRecord) -> float:
    """On the samples as the data set stores them."""
    _, dataset = load_problem(workload)
    network = tpbench.load_network(folder, run.definition.id)
    labels = torch.from_numpy(dataset.arrays["y_test"]).long()
    wrong = network(torch.from_numpy(dataset.arrays["x_test"])).argmax(-1) != labels
    return wrong.double().mean().item()


def test_the_documented_module_of_convolutions_computes_a_kept_network(tmp_path: Path, tpbench_inside: Inside) -> None:
    frame = tpbench.run("digits-conv", "bp", seeds=[0], epochs=1, results=tmp_path, keep_networks=True, progress=False)
    run = frame.id[0]
    assert tpbench_inside("results", "export-network", run, "net.pt", "--results", str(tmp_path)).returncode == 0
    blocks = (DOCUMENTS / "networks.md").read_text().split("```python\n")[1:]
    (example,) = [block.split("```")[0] for block in blocks if "nn.Conv2d" in block]
    images = torch.from_numpy(load_problem(WORKLOADS["digits-conv"])[1].arrays["x_test"]).reshape(-1, 8, 8)
    expected = tpbench.load_network(tmp_path, run)(images)
    for inputs in (images, images.flatten(1)):
        names: dict[str, Any] = {"nn": torch.nn, "torch": torch, "images": inputs}
        exec(example, names)
        torch.testing.assert_close(names["logits"], expected)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Workload:
    """Images of 0 to 255 in rows and columns, normalised as MNIST is; the first layer alone trains."""
    folder = tmp_path_factory.mktemp("tiny")
    y = np.arange(160) % 4
    x = np.random.default_rng(0).integers(0, 120, (160, 6, 5)) + 30 * y[:, None, None]
    arrays = {"x_train": x[:120], "x_test": x[120:]}
    np.savez(
        folder / "tiny.npz",
        y_train=y[:120],
        y_test=y[120:],
        **{name: values.astype(np.uint8) for name, values in arrays.items()},
    )
    (folder / "tiny.yaml").write_text(
        "name: tiny\ndata: tiny.npz\nnetwork: [12, 9]\nrandom_hidden: 8\nnormalise: [0.1307, 0.3081]\nbatch_size: 16\n"
        "validation_size: 24\ntrained_layers: [1]\nfeedback_epochs: {sleep: [1, 1]}\n"
    )
    return read_workload(folder / "tiny.yaml")


@pytest.fixture(scope="module")
def plan(tiny: Workload) -> PackPlan:
    """Two seeds, of feedback and joint epochs two each."""
    return plan_of(tiny, "ddtp-rhl")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, plan: PackPlan) -> Path:
    """A store with both runs and their networks."""
    folder = tmp_path_factory.mktemp("undisturbed")
    PackJob(plan, keeping(folder)).run()
    return folder


def test_a_network_has_the_test_error_of_its_run(undisturbed: Path, tiny: Workload) -> None:
    store = RunStore(undisturbed)
    runs = list(store.records())
    assert NETWORKS.names_in(store.folder) == [run.definition.id for run in runs]
    for run in runs:
        assert error_of(undisturbed, tiny, run) == run.test_error
        kept = read_network(store, run.definition.id)
        assert kept
        assert (kept.method, kept.seed, kept.sizes) == ("ddtp-rhl", run.definition.seed, (30, 12, 9, 4))
        assert (kept.selected_epoch, kept.test_error) == (run.history.selected_epoch, run.test_error)
        assert {name: array.shape for name, array in kept.arrays.items() if "feedback" in name} == {
            "feedback.1.weight": (12, 8),
            "feedback.1.bias": (12,),
            "feedback.2.weight": (9, 4),
            "feedback.2.bias": (9,),
            "feedback.random.weight": (8, 4),
            "feedback.random.bias": (8,),
        }


@pytest.mark.parametrize("flat", [False, True])
def test_a_convolutional_network_has_the_test_error_and_the_outputs_of_its_run(tmp_path: Path, flat: bool) -> None:
    y, image = np.arange(160) % 4, (7, 6, 3)
    x = np.random.default_rng(0).integers(0, 120, (160, *image)) + 30 * y[:, None, None, None]
    stored = (x.reshape(160, -1) if flat else x).astype(np.uint8)
    np.savez(tmp_path / "own.npz", x=stored, y=y)
    (tmp_path / "own.yaml").write_text(
        "name: own\ndata: own.npz\ntest: 0.25\nnetwork: [{conv: 4, kernel: 3}, {conv: 2, pool: 1}, 8]\n"
        f"image: {list(image)}\nbatch_size: 16\nvalidation_size: 24\nfeedback_epochs: {{sleep: [1, 1]}}\n"
    )
    workload = read_workload(tmp_path / "own.yaml")
    PackJob(plan_of(workload, "ddtp-linear"), keeping(tmp_path)).run()
    problem, dataset = load_problem(workload)
    shapes = {
        "forward.1.weight": (4, 3, 3, 3),
        "forward.2.weight": (2, 4, 5, 5),
        "forward.3.weight": (8, 2 * 4 * 3),
        "forward.4.weight": (4, 8),
        "feedback.1.weight": (4 * 4 * 3, 4),
        "feedback.2.weight": (2 * 4 * 3, 4),
        "feedback.3.weight": (8, 4),
    }
    for run in RunStore(tmp_path).records():
        assert error_of(tmp_path, workload, run) == run.test_error
        kept = read_network(RunStore(tmp_path), run.definition.id)
        assert kept
        assert {name: array.shape for name, array in kept.arrays.items() if "weight" in name} == shapes
        assert {name for name in kept.arrays if "feedback" in name and "bias" in name} == {"feedback.3.bias"}
        trainer = Trainer(METHODS["ddtp-linear"], problem, [dict(run.definition.configuration)], [0], epochs=1)
        for name in trainer.pack.forward:
            trainer.pack.forward[name][0] = torch.from_numpy(np.array(kept.arrays[array_name(name)]))
        inputs = problem.inputs(problem.x_test, torch.float32)
        engine = trainer.pack.propagate(inputs.unsqueeze(0))[-1][0]
        module = tpbench.load_network(tmp_path, run.definition.id)(torch.from_numpy(dataset.arrays["x_test"]))
        assert module.detach().numpy() == pytest.approx(engine.numpy(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("normalise", ["standard", "unit", "none"])
def test_networks_of_own_numbers_in_float64(tmp_path: Path, normalise: str) -> None:
    generator = np.random.default_rng(0)
    y = np.arange(90) % 3
    np.savez(tmp_path / "own.npz", x=generator.normal(size=(90, 7)) + 0.6 * y[:, None], y=y)
    (tmp_path / "own.yaml").write_text(
        f"name: own\ndata: own.npz\ntest: 0.3\nnetwork: [8]\nnormalise: {normalise}\nbatch_size: 8\n"
        "validation_size: 9\n"
    )
    workload = read_workload(tmp_path / "own.yaml")
    PackJob(plan_of(workload, "bp"), keeping(tmp_path, precision="float64")).run()
    for run in RunStore(tmp_path).records():
        network = tpbench.load_network(str(tmp_path), run.definition.id[:8])
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
        assert error_of(tmp_path, workload, run) == run.test_error
        problem, dataset = load_problem(workload)
        inputs = network[0](torch.from_numpy(dataset.arrays["x_test"]))
        assert torch.equal(inputs, problem.inputs(problem.x_test, torch.float64))
        plain = tpbench.load_network(tmp_path, run.definition.id, normalise=False)
        assert torch.equal(plain(inputs), network(torch.from_numpy(dataset.arrays["x_test"])))


def test_an_interrupted_pack_leaves_the_same_networks(undisturbed: Path, plan: PackPlan, tmp_path: Path) -> None:
    def stop(report: EpochReport) -> None:
        if report.done == 3:
            raise InterruptedTrainingError

    # A checkpoint without networks is not taken for one with them.
    for settings in (PackSettings(str(tmp_path), checkpoint_every=2), keeping(tmp_path, checkpoint_every=2)):
        with pytest.raises(InterruptedTrainingError):
            PackJob(plan, settings).run(stop)
    assert len(list((tmp_path / "checkpoints").glob("*.pt"))) == 2
    done: list[int] = []
    PackJob(plan, keeping(tmp_path)).run(lambda report: done.append(report.done))
    assert done[0] == 3
    assert files(tmp_path) == files(undisturbed)


def test_halves_of_a_pack_leave_the_same_networks(
    undisturbed: Path, plan: PackPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allow_one_member(monkeypatch)
    PackJob(plan, keeping(tmp_path)).run()
    assert files(tmp_path) == files(undisturbed)


def test_a_kill_between_network_and_run_leaves_no_run_without_its_network(
    undisturbed: Path, plan: PackPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise InterruptedTrainingError

    with monkeypatch.context() as patch:
        patch.setattr(RunStore, "publish", killed)
        with pytest.raises(InterruptedTrainingError):
            PackJob(plan, keeping(tmp_path)).run()
    found = check_store(RunStore(tmp_path))[NETWORKS]
    assert (found.valid, found.wrong, found.orphans) == (1, [], 1)
    PackJob(plan, keeping(tmp_path)).run()
    assert files(tmp_path) == files(undisturbed)
    assert check_store(RunStore(tmp_path))[NETWORKS].orphans == 0


def test_networks_that_are_missing_are_made_without_touching_the_runs(
    undisturbed: Path, plan: PackPlan, tmp_path: Path
) -> None:
    store = RunStore(tmp_path)
    first = PackJob(plan, PackSettings(str(tmp_path))).run()
    assert NETWORKS.names_in(store.folder) == []
    with pytest.raises(
        TpbenchError, match=r"holds no network of the run .* it was not kept; 'tpbench run .*--keep-net"
    ):
        tpbench.load_network(tmp_path, store.ids()[0])
    runs = {path.name: path.read_bytes() for path in store.runs.iterdir()}
    assert PackJob(plan, keeping(tmp_path)).run() == first
    assert files(tmp_path) == files(undisturbed)
    # A damaged one is made anew, too.
    path = NETWORKS.path(store.folder, store.ids()[0])
    path.write_bytes(path.read_bytes()[:-5])
    job = PackJob(plan, keeping(tmp_path))
    assert [d.id for d in job.missing] == [path.stem]
    job.run()
    assert files(tmp_path) == files(undisturbed)
    assert {path.name: path.read_bytes() for path in store.runs.iterdir()} == runs
    assert PackJob(plan, keeping(tmp_path)).missing == []


def test_a_run_that_diverges_in_its_first_epoch_has_no_network(plan: PackPlan, tmp_path: Path) -> None:
    plan = replace(plan, seeds=(0,))
    wild = {**plan.configurations[0], "lr_fb": 9e30, "sigma": 1e30, "lr_eta": 1e30}
    plan = replace(plan, configurations=(wild,))
    PackJob(plan, keeping(tmp_path)).run()
    (run,) = RunStore(tmp_path).records()
    assert NETWORKS.names_in(RunStore(tmp_path).folder) == []
    assert has_network(RunStore(tmp_path), run)  # nothing is missing
    assert PackJob(plan, keeping(tmp_path)).missing == []
    with pytest.raises(TpbenchError, match="diverged"):
        tpbench.load_network(tmp_path, run.definition.id)


def test_run_keeps_exports_and_says_what_it_does(tmp_path: Path, tpbench_inside: Inside) -> None:
    given = {k: CONFIGURATION[k] for k in METHODS["bp"].hyperparameters}
    (tmp_path / "c.yaml").write_text(json.dumps(given))
    command = ("run", "digits", "bp", "--config", "c.yaml", "--epochs", "2", "--seeds")
    assert tpbench_inside(*command, "0").returncode == 0
    # A run of another machine, as this one would not train it.
    store, other = RunStore(tmp_path / "results"), RunStore(tmp_path / "other")
    (run,) = store.records()
    other.publish(replace(run, curves={**run.curves, "test_loss": [1.0, 2.0]}))
    again = tpbench_inside(*command, "0", "--keep-networks", "--results", "other")
    assert "1 of 1 runs are in other already, 1 without their networks: these are trained again" in again.stdout
    assert "warning: 1 run is without a network still" in again.stdout
    assert NETWORKS.names_in(other.folder) == []

    kept = tpbench_inside(*command, "0-1", "--keep-networks")
    assert "1 of 2 runs" in kept.stdout
    assert "warning" not in kept.stdout + kept.stderr
    checked = tpbench_inside("results", "check").stdout
    assert "2 of them with predictions\n2 networks whole, 0 damaged" in checked
    (run, _) = store.records()
    for ending in (".pt", ".safetensors", ".npz"):
        made = tpbench_inside("results", "export-network", run.definition.id[:9], f"net{ending}")
        assert made.returncode == 0, made.stderr
        assert all(value in made.stdout for value in ("64-64-64-10", "tanh", "* 0.0625 + 0.0"))
    network = tpbench.load_network("results", run.definition.id)
    plain = torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(64, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, 64),
        torch.nn.Tanh(),
        torch.nn.Linear(64, 10),
    )
    from safetensors.torch import load_file

    with np.load("net.npz") as arrays:
        of_npz = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    for state in (torch.load("net.pt", weights_only=True), load_file("net.safetensors"), of_npz):
        plain.load_state_dict(state)
        network.load_state_dict(state)
        assert all(torch.equal(plain.state_dict()[name], values) for name, values in network.state_dict().items())
    packed = tpbench_inside("results", "pack", "a.zip").stdout
    assert "2 networks" in packed


def test_keeping_travels_to_workers_and_names_nothing(plan: PackPlan, tmp_path: Path) -> None:
    pack = QueuedPack("final-0", plan, keeping(tmp_path))
    assert cloudpickle.loads(cloudpickle.dumps(pack)).settings.keep_networks
    with_networks, without = PackJob(plan, pack.settings), PackJob(plan, PackSettings(str(tmp_path)))
    assert with_networks.definitions == without.definitions
    assert with_networks.checkpoint_path != without.checkpoint_path


def test_every_array_of_the_engine_has_a_name() -> None:
    assert [array_name(name) for name in ("W1", "b12", "Q3", "c3", "S2", "R", "d")] == [
        "forward.1.weight",
        "forward.12.bias",
        "feedback.3.weight",
        "feedback.3.bias",
        "feedback.2.recurrent",
        "feedback.random.weight",
        "feedback.random.bias",
    ]
