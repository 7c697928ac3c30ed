"""A rule package written for version 0.2.0 imports, trains and keeps its numbers; moved modules warn."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.documents import DOCUMENTS
from tests.engine.test_plugins import install
from tpbench import engine
from tpbench.engine import METHODS, Minibatch, Problem, Trainer, example_configuration, get_method
from tpbench.engine.startup import MOVED
from tpbench.engine.step import PackState

# Version 0.2.0's page about adding a method showed this package.
MIRROR = '''
"""Feedback alignment whose feedback learns to mirror the weights (after Kolen and Pollack 1994, Akrout et al. 2019)."""

from torch import Tensor

from tpbench.engine import Hyperparameter, Method, Minibatch
from tpbench.engine.methods import aligned_targets
from tpbench.engine.parts import LAYERWISE_LINEAR


def mirrored_targets(batch: Minibatch) -> list[Tensor]:
    """Targets as in feedback alignment; then each Q_i descends as W_{i+1} does, and decays."""
    targets = aligned_targets(batch)
    samples = batch.output_gradient.shape[1]
    rate, decay = (batch.hyperparameters[name].view(-1, 1, 1) for name in ("mirror_rate", "mirror_decay"))
    for i in batch.architecture.hidden:
        error = targets[i]  # of layer i + 1
        if i + 1 < batch.architecture.depth:
            error = error * batch.slopes[i + 1]
        feedback = batch.feedback.parameters[f"Q{i}"]
        feedback += rate * (batch.activities[i].mT @ error * (2 / samples) - decay * feedback)
    return targets


RULE = Method(
    "Mirror-FA",
    "feedback alignment whose feedback learns to mirror the weights",
    mirrored_targets,
    (
        "lr",
        "beta1",
        "beta2",
        "epsilon",
        Hyperparameter("mirror_rate", "learning rate of the feedback", upper=10.0),
        Hyperparameter("mirror_decay", "share of the feedback that decays per unit of its rate", upper=1.0, open=False),
    ),
    LAYERWISE_LINEAR,
)
'''
NAMES = {
    "architecture": "Architecture",
    "checkpoints": "load_checkpoint",
    "curvature": "root_probabilities",
    "numerics": "tanh_slope",
    "reconstruction": "feedback_gradients",
    "schedule": "Phase",
    "sources": "source_digest",
    "training": "Trainer",
}
"""A name of each moved module in version 0.2.0."""


@pytest.fixture
def not_imported() -> Iterator[None]:
    """Forget that a moved module was imported, before and after a test."""

    def forget() -> None:
        for old in MOVED:
            sys.modules.pop(f"tpbench.engine.{old}", None)
            vars(engine).pop(old, None)

    forget()
    yield
    forget()


@pytest.mark.usefixtures("fresh_methods")
def test_the_example_of_version_0_2_trains_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_problem: Problem
) -> None:
    install(tmp_path, "tp_mirror_of_old", MIRROR, "mirror-fa")
    monkeypatch.syspath_prepend(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rule = get_method("mirror-fa")
        trainer = Trainer(rule, small_problem, [example_configuration(rule)] * 2, [0, 1], epochs=1)
        before = trainer.pack.feedback.flat.clone() if trainer.pack.feedback else None
        trainer.advance()
    assert [history.status for history in trainer.histories] == ["finished", "finished"]
    assert before is not None
    assert trainer.pack.feedback is not None
    assert not torch.equal(trainer.pack.feedback.flat, before)


@pytest.mark.usefixtures("not_imported")
@pytest.mark.parametrize("old", MOVED)
def test_a_moved_module_is_found_with_one_warning(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=old) as caught:
        module = importlib.import_module(f"tpbench.engine.{old}")
    (warning,) = caught
    assert all(f"tpbench.engine.{new}" in str(warning.message) for new in MOVED[old])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(f"from tpbench.engine.{old} import {NAMES[old]}")
    places = [importlib.import_module(f"tpbench.engine.{new}") for new in MOVED[old]]
    assert any(getattr(module, NAMES[old]) in vars(place).values() for place in places)
    with pytest.raises(AttributeError):
        module.nothing_of_that_name  # noqa: B018


@pytest.mark.usefixtures("not_imported")
def test_the_warning_names_the_line_that_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tp_imports_old.py").write_text("x = 1\nfrom tpbench.engine.numerics import tanh_slope\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(DeprecationWarning, match="precision") as caught:
        importlib.import_module("tp_imports_old")
    assert (Path(caught[0].filename).name, caught[0].lineno) == ("tp_imports_old.py", 2)


def test_unknown_modules_stay_unknown() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("tpbench.engine.nothing_of_that_name")


def test_a_rule_may_use_the_names_of_its_minibatch_in_version_0_2(small_problem: Problem) -> None:
    used: dict[str, object] = {}

    def using(batch: Minibatch) -> list[torch.Tensor]:
        assert batch.feedback is not None
        used["product"] = batch.product(batch.output_gradient, batch.forward_parameters["W3"]).shape
        used["sizes"] = batch.architecture.sizes
        used["labels"] = batch.labels
        used["configuration"] = batch.configurations[0]["lr"]
        used["twice"] = [batch.feedback.targets(-batch.output_gradient) for _ in range(2)]
        used["fixed"] = batch.feedback.fixed
        return [*batch.feedback.targets(-batch.output_gradient), -batch.output_gradient + 0 * batch.draw(32, 3)]

    rule = replace(METHODS["dfa"], targets=using, capturable=False)
    pack = PackState(rule, small_problem.architecture, [example_configuration(rule)], [0])
    x, y = small_problem.batch(torch.arange(32).view(1, -1), torch.float32)
    pack.joint_step(x, y, None)
    assert used["product"] == (1, 32, small_problem.architecture.sizes[2])
    assert set(used) == {"product", "sizes", "labels", "configuration", "twice", "fixed"}


def test_all_that_a_rule_needs_is_in_the_engine() -> None:
    from tpbench.engine import methods, parts

    for module in (methods, parts):
        public = {
            name
            for name, value in vars(module).items()
            if not name.startswith("_") and getattr(value, "__module__", module.__name__) == module.__name__
        }
        wanted = {name for name in public if name.endswith("_targets") or name.isupper() or name[0].isupper()}
        assert wanted - {
            "TYPE_CHECKING",
            "FORWARD_ADAM",
            "FEEDBACK_TRAINING",
            "FEEDBACK_ADAM",
            "SCHEDULES",
            "NEEDS",
            "REGISTRY",
        } <= set(dir(engine))


def test_all_that_the_page_for_authors_names_is_in_the_engine() -> None:
    page = (DOCUMENTS / "adding-a-method.md").read_text(encoding="utf-8")
    called = set(re.findall(r"`([A-Za-z]\w+)\(", page)) - {"train", "tanh"}
    constants = set(re.findall(r"`([A-Z]{2}[A-Z_]+)`", page))
    assert {"Update", "FeedbackPhase", "tanh_difference_"} <= called
    assert {"SLEEP", "LAYERWISE_LINEAR"} <= constants
    assert called | constants <= set(engine.__all__)
