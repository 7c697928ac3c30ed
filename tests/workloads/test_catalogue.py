"""Workloads: networks, preprocessing and schedules of section B.1."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tpbench.engine import METHODS, UsageError
from tpbench.training.choice import pair_up
from tpbench.workloads import WORKLOADS, get_workload, load_problem
from tpbench.workloads.own_data import scale_and_shift

# Section B.1, "Training details": (pretraining, between) for the new methods and for extra FB.
SCHEDULES = {
    "mnist": ((6, 1), (10, 4)),
    "fashion-mnist": ((6, 1), (10, 4)),
    "mnist-frozen": ((10, 0), (10, 4)),
    "cifar10": ((10, 2), (10, 4)),
    # The authors' later code.
    "cifar10-conv": ((10, 1), (10, 4)),
    "cifar10-conv-loss": ((10, 1), (10, 4)),
    # Of another paper: Meulemans et al. 2021.
    "mnist-3x256": ((10, 2), (10, 4)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_the_papers(name: str) -> None:
    workload = WORKLOADS[name]

    def of(method: str) -> tuple[int, ...]:
        return tuple(workload.feedback_schedule(METHODS[method]).values())

    sleep, extra = SCHEDULES[name]
    assert {of(m) for m in ("dtp-pretrained", "dtpdrl", "ddtp-linear", "ddtp-rhl", "ddtp-control")} == {sleep}
    assert {of(m) for m in ("ddtp-rhl-extra-fb", "ddtp-rhl-rec-extra-fb")} == {extra}
    assert of("dtp") == (0, 0)
    assert of("bp") == of("dfa") == of("gnt") == ()


def test_networks_are_the_papers() -> None:
    for name in ("mnist", "mnist-frozen", "fashion-mnist"):
        assert WORKLOADS[name].architecture.sizes == (784, *[256] * 5, 10)
        assert WORKLOADS[name].architecture.random_hidden == 1024
    assert WORKLOADS["mnist-3x256"].architecture.sizes == (784, *[256] * 3, 10)
    assert WORKLOADS["cifar10"].architecture.sizes == (3072, 1024, 1024, 1024, 10)
    assert WORKLOADS["cifar10"].architecture.random_hidden == 2048
    assert [w.name for w in WORKLOADS.values() if w.trained_layers == (1,)] == ["mnist-frozen"]
    assert {w.batch_size for w in WORKLOADS.values() if w.data != "digits"} == {128}
    sizes = {name: w.validation_size for name, w in WORKLOADS.items() if w.data != "digits"}
    assert {name for name, size in sizes.items() if size != 5000} == {"cifar10-conv-loss"}


def test_the_convolutional_network_is_the_authors() -> None:
    workload = WORKLOADS["cifar10-conv"]
    network = workload.architecture
    assert network.maps == ((3, 32, 32), (32, 16, 16), (64, 8, 8))
    assert network.sizes == (3072, 8192, 4096, 512, 10)
    assert (network.depth, network.random_hidden) == (4, 2048)
    assert {(layer.kernel, layer.pool, layer.stride) for layer in network.convolutions} == {(5, 3, 2)}
    assert (workload.normalise, workload.epochs, workload.prune) == ((0.5, 0.5), 100, (6, 0.75))
    assert str(network) == "32x32x3-conv32-conv64-512-10"
    assert str(WORKLOADS["digits"].architecture) == "64-64-64-10"


def test_the_training_for_losses_differs_in_epochs_and_samples_alone() -> None:
    loss, plain = (WORKLOADS[name].content() for name in ("cifar10-conv-loss", "cifar10-conv"))
    assert {key: (loss[key], plain[key]) for key in loss if loss[key] != plain[key]} == {
        "validation_size": (0, 5000),
        "epochs": (300, 100),
    }


@pytest.mark.parametrize("name", ["cifar10-conv", "digits-conv"])
def test_methods_whose_feedback_crosses_a_convolution_are_refused(name: str) -> None:
    workload = WORKLOADS[name]
    trained = {method for method in METHODS if not workload.refusal(method)}
    assert {"bp", "dfa", "ddtp-linear", "ddtp-rhl", "ddtp-control", "drtp", "dkp"} <= trained
    assert not trained & {"fa", "kp", "wm", "usf", "dtp", "dtpdrl", "ddtp-rhl-rec", "gnt", "pepita"}
    assert all("\n" not in workload.refusal(method) for method in METHODS)
    assert not any(WORKLOADS["cifar10"].refusal(method) for method in METHODS)
    cells, left = pair_up([workload], list(METHODS))
    assert {cell.method for cell in cells} == trained
    # A line for each reason, and each method in one of them.
    assert len(left) == len({METHODS[method].convolution_refusal for method in METHODS} - {""})
    names = [name for line in left for name in line.split(" cannot ")[0].split(", ")]
    assert sorted(names) == sorted(set(METHODS) - trained)


@pytest.mark.parametrize(
    ("name", "pixel", "value"),
    [
        ("mnist", 0, -0.1307 / 0.3081),
        ("mnist", 255, (1 - 0.1307) / 0.3081),
        ("mnist-3x256", 255, (1 - 0.1307) / 0.3081),
        ("fashion-mnist", 255, 1.0),
        ("fashion-mnist", 0, 0.0),
        ("cifar10", 0, -1.0),
        ("cifar10", 255, 1.0),
        ("cifar10-conv", 0, -1.0),
        ("digits", 16, 1.0),
    ],
)
def test_preprocessing(name: str, pixel: int, value: float) -> None:
    scale, shift = scale_and_shift(WORKLOADS[name].normalise, np.zeros((1, 1), np.uint8))
    assert pixel * scale + shift == pytest.approx(value, abs=1e-12)


def test_batches_are_preprocessed_rows() -> None:
    problem, dataset = load_problem(WORKLOADS["digits"])
    x, y = problem.batch(torch.tensor([[0, 5], [7, 7]]), torch.float64)
    assert x.shape == (2, 2, 64)
    assert torch.equal(x[0, 1] * 16, torch.from_numpy(dataset.arrays["x_train"][5]).double())
    assert y.tolist() == [[int(dataset.arrays["y_train"][i]) for i in row] for row in ([0, 5], [7, 7])]


def test_unknown_workload() -> None:
    with pytest.raises(UsageError, match="mean 'cifar10'"):
        get_workload("cifar")
