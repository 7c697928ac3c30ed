"""Rules of packages: hyperparameters of their own, what is checked of them, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.conftest import CONFIGURATION
from tpbench.engine import (
    METHODS,
    SCHEDULE,
    Hyperparameter,
    Method,
    Minibatch,
    Problem,
    RuleError,
    Trainer,
    UsageError,
    check_configuration,
    example_configuration,
    verify,
)
from tpbench.engine.adam import forward_settings
from tpbench.engine.methods import (
    FEEDBACK_TRAINING,
    aligned_targets,
    cross_entropy_loss,
    gradient_targets,
    propagated_targets,
)
from tpbench.engine.network import squared_error, stream
from tpbench.engine.parts import DIRECT_LINEAR, EXTRA, LAYERWISE_LINEAR, SLEEP, Architecture, RuleArray
from tpbench.engine.step import PackState
from tpbench.engine.verify import verify_method

PLAIN = ("lr", "beta1", "beta2", "epsilon")
Rule = Callable[[Minibatch], Any]


def method(rule: Rule, **more: Any) -> Method:
    return Method("Mine", "a rule", rule, **{"hyperparameters": PLAIN, **more})


def trainer(rule: Method, problem: Problem, seeds: tuple[int, ...] = (0, 1), epochs: int = 2) -> Trainer:
    return Trainer(rule, problem, [example_configuration(rule)] * len(seeds), list(seeds), epochs=epochs)


@pytest.mark.parametrize("name", METHODS)
def test_the_built_in_rules_pass_every_check(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_INFORMATION", ())
    assert [check for check in verify_method(METHODS[name]) if not check.passed] == []


def short(batch: Minibatch) -> list[Tensor]:
    return gradient_targets(batch)[1:]


def turned(batch: Minibatch) -> list[Tensor]:
    targets = gradient_targets(batch)
    return [targets[0].mT, *targets[1:]]


def doubled(batch: Minibatch) -> list[Tensor]:
    return [t.to(torch.float64 if t.dtype == torch.float32 else torch.float32) for t in gradient_targets(batch)]


def infinite(batch: Minibatch) -> list[Tensor]:
    targets = gradient_targets(batch)
    return [targets[0] / 0, *targets[1:]]


def in_place(batch: Minibatch) -> list[Tensor]:
    batch.output_gradient.mul_(2)
    return gradient_targets(batch)


def in_place_below(batch: Minibatch) -> list[Tensor]:
    batch.activities[1].add_(1)
    return gradient_targets(batch)


WRONG = [
    (lambda batch: None, "targets", r"4 targets.* NoneType"),
    (short, "targets", r"4 targets.* 3 "),
    (lambda batch: [1, 2, 3, 4], "targets", r"layer 1.* int"),
    (turned, "targets", r"layer 1.* \(\d, \d+, \d+\)"),
    (doubled, "targets", r"layer 1.* torch\.float\d\d"),
    (in_place, "minibatch", r"output gradient"),
    (in_place_below, "minibatch", r"activities of layer 1"),
]


@pytest.mark.parametrize(("rule", "check", "message"), WRONG)
def test_a_wrong_rule_is_named_in_one_line(small_problem: Problem, rule: Rule, check: str, message: str) -> None:
    of_three_layers = Problem(
        Architecture((6, 8, 7, 5, 3)),
        small_problem.x_train,
        small_problem.y_train,
        small_problem.x_test,
        small_problem.y_test,
        validation_size=60,
        batch_size=32,
    )
    with pytest.raises(RuleError, match=f"^Mine.*{message}") as caught:
        trainer(method(rule), of_three_layers).advance()
    assert "\n" not in str(caught.value)
    *_, last = verify_method(method(rule))
    assert (last.name, last.passed) == (check, False)


def test_numbers_that_are_not_finite_diverge_and_are_said(small_problem: Problem) -> None:
    """A member whose hyperparameters make it overflow does so alone as in a pack: it is no error of the command's."""
    pack = trainer(method(infinite), small_problem)
    (warning,) = pack.advance().warnings
    assert "layer 1" in warning
    assert [history.status for history in pack.histories] == ["diverged", "diverged"]
    *_, last = verify_method(method(infinite))
    assert (last.name, last.passed) == ("finite", False)
    assert "layer 1" in last.result


def test_a_member_that_overflows_does_not_stop_its_pack(small_problem: Problem) -> None:
    def overflowing(batch: Minibatch) -> list[Tensor]:
        return [target * batch.hyperparameters["size"].view(-1, 1, 1) * 1e38 for target in gradient_targets(batch)]

    rule = method(overflowing, hyperparameters=(*PLAIN, Hyperparameter("size", "how large")))
    given = example_configuration(rule)
    pack = Trainer(rule, small_problem, [{**given, "size": s} for s in (1e-38, 1e5)], [0, 1], epochs=1)
    pack.advance()
    assert [history.status for history in pack.histories] == ["finished", "diverged"]


def stateful() -> Rule:
    calls = []

    def rule(batch: Minibatch) -> list[Tensor]:
        calls.append(1)
        return [target * len(calls) for target in gradient_targets(batch)]

    return rule


def pack_mean(batch: Minibatch) -> list[Tensor]:
    return [target - target.mean(0) for target in gradient_targets(batch)]


def idle(batch: Minibatch) -> list[Tensor]:
    return [torch.zeros_like(t) if i != 3 else t for i, t in enumerate(gradient_targets(batch))]


def reading(batch: Minibatch) -> list[Tensor]:
    return [target * (1 if target.abs().max().item() else 2) for target in gradient_targets(batch)]


def to_the_host(batch: Minibatch) -> list[Tensor]:
    return [target.cpu().to(target.device) for target in gradient_targets(batch)]


def from_the_host(batch: Minibatch) -> list[Tensor]:
    return [target * torch.tensor(2.0).to(target.device) for target in gradient_targets(batch)]


def test_a_rule_that_draws_is_not_capturable(small_problem: Problem) -> None:
    """A GPU would replay the same draw for ever."""
    with pytest.raises(RuleError, match="capturable=False"):
        trainer(method(changing, feedback=LAYERWISE_LINEAR), small_problem).advance()


@pytest.mark.parametrize(
    ("rule", "more", "checks"),
    [
        (stateful(), {}, {"second call", "checkpoint", "members"}),
        (pack_mean, {}, {"members"}),
        (idle, {}, {"updates"}),
        (reading, {}, {"read-backs"}),
        (to_the_host, {}, {"read-backs"}),
        (from_the_host, {}, {"read-backs"}),
        (reading, {"capturable": False}, set()),
        (propagated_targets, {"feedback": DIRECT_LINEAR, "descends": cross_entropy_loss}, {"gradient"}),
    ],
)
def test_each_check_can_fail(rule: Rule, more: dict[str, Any], checks: set[str]) -> None:
    found = failed(method(rule, **more))
    assert found == checks or found >= checks >= {"second call"}


OWN = (
    Hyperparameter("gain", "how large"),
    Hyperparameter("kept", "a share", upper=1.0),
    Hyperparameter("depth", "of some sum", lower=-3, upper=-2),
    Hyperparameter("count", "how often", whole=True),
    Hyperparameter("flag", "whether", open=False, upper=2, whole=True),
    Hyperparameter("late", "one of few", lower=3, upper=5, open=False, whole=True),
)


def of_the_first(name: str, batch: Minibatch) -> list[Tensor]:
    """Takes the first member's value of a hyperparameter for the whole pack."""
    return [target * (4 + batch.hyperparameters[name][0]) for target in gradient_targets(batch)]


def of_the_last_on_the_host(name: str, batch: Minibatch) -> list[Tensor]:
    return [target * (4 + batch.configurations[-1][name]) for target in gradient_targets(batch)]


def of_its_own(name: str, batch: Minibatch) -> list[Tensor]:
    return [target * (4 + batch.hyperparameters[name].view(-1, 1, 1)) for target in gradient_targets(batch)]


def failed(rule: Method) -> set[str]:
    """Return the checks that a rule does not pass; those that measure alone have no verdict."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify, "_INFORMATION", ())
        return {check.name for check in verify_method(rule) if check.passed is False}


@pytest.mark.parametrize("name", [h.name for h in OWN] + ["lr", "beta1", "beta2"])
def test_a_rule_that_takes_one_members_hyperparameter_for_all_depends_on_its_pack(name: str) -> None:
    """Finding B-1 of the review."""
    own: dict[str, Any] = {"hyperparameters": (*PLAIN, *OWN), "capturable": False}
    for rule in (of_the_first, of_the_last_on_the_host):
        assert failed(method(partial(rule, name), **own)) == {"members"}
    assert failed(method(partial(of_its_own, name), **own)) == set()


@pytest.mark.parametrize("names", [("lr_eta", "eta"), FEEDBACK_TRAINING])
def test_no_two_members_of_the_test_pack_share_a_value(names: tuple[str, ...]) -> None:
    """Nor a forward learning rate, which may be a quotient of two of them."""
    rule = METHODS["ddtp-linear"]
    found = verify.member_configurations(rule)
    for name in names:
        assert len({values[name] for values in found}) == 3
    assert len({forward_settings(values).lr for values in found}) == 3
    for values in found:
        assert check_configuration(values, rule.hyperparameter_specs.values()) == values
    assert found[0] == example_configuration(rule)


def test_the_feedback_schedule_is_one_for_a_pack() -> None:
    rule = METHODS["ddtp-linear"]
    scheduled = replace(rule, hyperparameters=(*rule.hyperparameters, *SCHEDULE))
    assert failed(scheduled) == set()
    assert len({values[SCHEDULE[0]] for values in verify.member_configurations(scheduled)}) == 1


@given(
    st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.booleans(), st.booleans(), st.integers(1, 2), st.floats(0.05, 0.1)
)
def test_a_varied_hyperparameter_stays_in_its_range(
    lower: float, width: float, opened: bool, whole: bool, member: int, share: float
) -> None:
    try:
        hyperparameter = Hyperparameter("mine", "what", lower, lower + width, opened, whole)
    except ValueError:
        return
    value = hyperparameter.example
    assert verify._vary(hyperparameter, value, 0, share) == value
    varied = verify._vary(hyperparameter, value, member, share)
    assert hyperparameter.check(varied, "") == varied


def noisy_sum(batch: Minibatch, *, masked: bool, longest: bool = True) -> list[Tensor]:
    """Adds ``count`` draws to the targets of the first layer: of each member its own count, or of all the first one's.

    Args:
        batch: the minibatch.
        masked: whether members that have all their draws draw no more.
        longest: whether the loop goes to the pack's largest count.
    """
    first, *others = gradient_targets(batch)
    counts = [int(configuration["count"]) for configuration in batch.configurations]
    for k in range(max(counts) if longest else counts[0]):
        drawing = [k < count for count in counts]
        drawn = batch.draw(*first.shape[1:], members=drawing) if masked else batch.draw(*first.shape[1:])
        first = first + 1e-3 * drawn * torch.tensor(drawing).view(-1, 1, 1)
    return [first, *others]


COUNTED: dict[str, Any] = {"hyperparameters": (*PLAIN, OWN[3]), "capturable": False}


def counted(**how: bool) -> Method:
    return method(partial(noisy_sum, **how), **COUNTED)


def test_members_that_draw_beside_one_that_draws_more_often_are_found() -> None:
    """Finding B-1b of the review."""
    assert failed(counted(masked=False)) == {"members"}
    assert failed(counted(masked=True)) == set()
    assert failed(counted(masked=True, longest=False)) == {"members"}


@pytest.mark.parametrize("masked", [True, False])
def test_members_that_do_not_draw_do_not_depend_on_those_that_do(small_problem: Problem, masked: bool) -> None:
    rule = counted(masked=masked)
    given = [{**example_configuration(rule), "count": count} for count in (1, 5, 2)]
    together = Trainer(rule, small_problem, given, [0, 1, 2], epochs=2)
    for _ in range(2):
        together.advance()
    for row, configuration in enumerate(given):
        alone = Trainer(rule, small_problem, [configuration], [row], epochs=2)
        for _ in range(2):
            alone.advance()
        curve, in_pack = (t.curves["validation_loss"] for t in (alone.histories[0], together.histories[row]))
        # Another stream of numbers differs by far more than a product that is summed in another order.
        equal = curve == pytest.approx(in_pack, rel=1e-6)
        # The member with the most draws is right in any case.
        assert equal == (masked or row == 1)


def drawing_pack(seeds: list[int]) -> Minibatch:
    rule = METHODS["bp"]
    configurations = [example_configuration(rule)] * len(seeds)
    pack = PackState(
        replace(rule, capturable=False), Architecture((4, 3, 2)), configurations, seeds, dtype=torch.float64
    )
    x, y = torch.zeros(len(seeds), 5, 4, dtype=torch.float64), torch.zeros(len(seeds), 5, dtype=torch.int64)
    return pack.minibatch(x, y)


def test_draws_are_of_each_members_stream_and_of_those_that_take_part() -> None:
    """The numbers of a draw by all are those of 0.2.0: those of torch.randn, one member after the other."""
    batch, streams = drawing_pack([3, 4, 5]), [stream(seed, "rule") for seed in (3, 4, 5)]
    masks: list[Any] = [
        None,
        [True, False, True],
        torch.tensor([False, True, True]),
        [True] * 3,
        (False, False, False),
    ]
    for mask in masks:
        found = batch.draw(5, 7, members=mask)
        assert found.dtype == torch.float64
        for row, generator in enumerate(streams):
            takes_part = mask is None or bool(mask[row])
            expected = torch.randn(5, 7, generator=generator) if takes_part else torch.zeros(5, 7)
            assert torch.equal(found[row], expected.double())


@pytest.mark.parametrize("mask", [[0, 2], [True], [1, 0, 1], torch.tensor([1, 0, 1]), torch.ones(3, 1) > 0, 2, "abc"])
def test_who_draws_is_said_by_one_truth_value_for_each_member(mask: Any) -> None:
    batch = drawing_pack([3, 4, 5])
    with pytest.raises(RuleError, match="truth values"):
        batch.draw(2, members=mask)


def differentiating(batch: Minibatch) -> list[Tensor]:
    first, *others = gradient_targets(batch)
    with torch.enable_grad():
        weight = torch.ones_like(first).requires_grad_()
        (gradient,) = torch.autograd.grad((weight * first).sum(), weight)
    return [gradient, *others]


def test_autograd_in_a_rule_is_no_failure_where_no_gpu_is(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {check.name: check for check in verify_method(method(differentiating))}
    assert [name for name, check in found.items() if check.passed is False] == []
    if not torch.cuda.is_available():
        assert found["read-backs"].passed is None
        # Where there is one, the same error would be the rule's.
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert failed(method(differentiating)) == {"read-backs"}


def test_targets_may_be_asked_for_twice(small_problem: Problem) -> None:
    def twice(batch: Minibatch) -> list[Tensor]:
        assert batch.feedback
        change = -batch.output_gradient
        first, second = batch.feedback.targets(change), batch.feedback.targets(2 * change)
        return [*(b - a for a, b in zip(first, second, strict=True)), change]

    once = trainer(METHODS["dfa"], small_problem)
    again = trainer(method(twice, feedback=DIRECT_LINEAR), small_problem)
    for pack in (once, again):
        pack.advance()
    torch.testing.assert_close(once.pack.forward.flat, again.pack.forward.flat, rtol=1e-4, atol=1e-6)


def changing(batch: Minibatch) -> list[Tensor]:
    targets = aligned_targets(batch)
    assert batch.feedback
    for i in batch.architecture.hidden:
        batch.feedback.parameters[f"Q{i}"].mul_(0.99)
    return [t + batch.draw(*t.shape[1:]) * 1e-3 for t in targets]


def test_feedback_that_a_rule_changes_and_its_random_stream_survive_a_checkpoint(small_problem: Problem) -> None:
    rule = method(changing, feedback=LAYERWISE_LINEAR, capturable=False)
    straight, broken = trainer(rule, small_problem, epochs=3), trainer(rule, small_problem, epochs=3)
    for _ in range(3):
        straight.advance()
    broken.advance()
    resumed = trainer(rule, small_problem, epochs=3)
    resumed.restore(broken.checkpoint())
    resumed.advance()
    resumed.advance()
    assert [h.curves for h in resumed.histories] == [h.curves for h in straight.histories]
    alone = trainer(rule, small_problem, seeds=(1,), epochs=3)
    for _ in range(3):
        alone.advance()
    assert alone.histories[0].curves == straight.histories[1].curves


def test_a_rule_knows_the_labels(small_problem: Problem) -> None:
    seen = []

    def labelled(batch: Minibatch) -> list[Tensor]:
        seen.append(batch.labels)
        return gradient_targets(batch)

    trainer(method(labelled), small_problem).advance()
    assert seen[0].shape == (2, 32)


def test_layers_without_any_update_are_said_once(small_problem: Problem) -> None:
    def first_only(batch: Minibatch) -> list[Tensor]:
        return [t if i else torch.zeros_like(t) for i, t in enumerate(gradient_targets(batch))]

    pack = trainer(method(first_only), small_problem)
    (warning,), later = (pack.advance().warnings for _ in range(2))
    assert "layer 1" in warning
    assert later == ()
    assert trainer(METHODS["bp"], small_problem).advance().warnings == ()


@pytest.mark.parametrize("schedule", [SLEEP, EXTRA])
def test_feedback_epochs_need_feedback_that_is_trained(schedule: str) -> None:
    """Finding B-6 of the review."""
    with pytest.raises(ValueError, match=r"Mine: .*needs feedback that is trained"):
        method(aligned_targets, feedback=LAYERWISE_LINEAR, schedule=schedule)
    with pytest.raises(ValueError, match=r"Mine: .*needs feedback that is trained"):
        method(gradient_targets, hyperparameters=(*PLAIN, SCHEDULE[0]))
    # Feedback that trains together with the weights has no epochs of its own: they would train nothing.
    with pytest.raises(ValueError, match=r"Kolen-Pollack: .*needs feedback that is trained by itself"):
        replace(METHODS["kp"], schedule=schedule)
    assert replace(METHODS["dtp"], schedule=schedule).schedule == schedule


@pytest.mark.parametrize(
    ("values", "given"),
    [
        (lambda draw: torch.zeros(draw.shape[1]), r"\(7,\)"),
        (lambda draw: torch.zeros(()), r"\(\)"),
        (lambda draw: torch.zeros(draw.shape[0], 1), r"\(8, 1\)"),
        (lambda draw: [[0.0] * draw.shape[1]] * draw.shape[0], "list"),
    ],
)
def test_an_initialiser_returns_the_whole_array(values: Callable[[Any], Any], given: str) -> None:
    """One of another shape would be spread over the array: a matrix of rank one."""
    arrays = {"own": RuleArray((8, 7), values)}
    of_map = method(propagated_targets, feedback=DIRECT_LINEAR, fixed_feedback=True, initialise_feedback=values)
    example = example_configuration(METHODS["bp"])
    with pytest.raises(RuleError, match=f"^Mine.*own are {given}"):
        PackState(method(gradient_targets, arrays=lambda _: arrays), Architecture((6, 8, 7, 3)), [example], [0])
    with pytest.raises(RuleError, match=r"^Mine.*Q1"):
        PackState(of_map, Architecture((6, 8, 7, 3)), [example], [0])


@pytest.mark.parametrize("name", ["ddtp-linear-ggn", "ddtp-rhl-ggn", "dtpdrl-ggn"])
def test_generalised_targets_are_those_of_cross_entropy(name: str) -> None:
    configurations = [example_configuration(METHODS[name])]
    with pytest.raises(ValueError, match="cross-entropy"):
        PackState(METHODS[name], Architecture((6, 8, 3), random_hidden=5), configurations, [0], loss=squared_error)


def test_samples_and_labels_of_a_problem_belong_together(small_problem: Problem) -> None:
    """A shorter or longer list of labels would train, with wrong numbers."""
    for changed in ({"y_train": small_problem.y_test}, {"y_test": small_problem.y_test[:1]}):
        with pytest.raises(ValueError, match="labels"):
            replace(small_problem, **changed)
    with pytest.raises(ValueError, match="5 inputs"):
        replace(small_problem, architecture=Architecture((5, 8, 3)))


@pytest.mark.parametrize("schedule", ["slep", "", "SLEEP", None, 3, []])
def test_a_schedule_is_one_of_those_there_are(schedule: Any) -> None:
    """Finding B-6 of the review."""
    for rule in (METHODS["bp"], METHODS["dtp"]):
        with pytest.raises(ValueError, match=f"{rule.title}: .*schedule"):
            replace(rule, schedule=schedule)


@pytest.mark.parametrize("title", ["", "  ", None, 3])
def test_a_method_has_a_title(title: Any) -> None:
    with pytest.raises(ValueError, match="title"):
        replace(METHODS["bp"], title=title)


def test_no_two_built_in_methods_have_one_title() -> None:
    assert len({rule.title for rule in METHODS.values()}) == len(METHODS)


def test_hyperparameters_of_a_rule_are_checked_like_the_others() -> None:
    rule = method(gradient_targets, hyperparameters=(*PLAIN, Hyperparameter("depth", "how deep", whole=True, upper=5)))
    known = rule.hyperparameter_specs.values()
    given = {name: CONFIGURATION[name] for name in PLAIN}
    assert check_configuration({**given, "depth": 3}, known)["depth"] == 3
    for value, message in ((7, "depth.*< 5"), (2.5, "depth.*whole"), ("a", "depth.*number")):
        with pytest.raises(UsageError, match=message):
            check_configuration({**given, "depth": value}, known)
    with pytest.raises(UsageError, match="depth"):
        check_configuration(given, known)


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        (("lr", "beta1", "beta2"), "Mine: .*epsilon"),
        (("beta1", "beta2", "epsilon"), "lr_eta, eta"),
        ((*PLAIN, "lr"), "twice"),
        ((*PLAIN, "etta"), "'etta'.*'eta'"),
        ((*PLAIN, Hyperparameter("eta", "mine")), "eta exists"),
    ],
)
def test_what_the_engine_needs_is_declared(hyperparameters: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method(gradient_targets, hyperparameters=hyperparameters)


@pytest.mark.parametrize(
    ("name", "bounds", "more"),
    [
        ("Beta", (0, 1), {}),
        ("a-b", (0, 1), {}),
        ("", (0, 1), {}),
        ("fine", (1, 1), {}),
        ("fine", (float("-inf"), 1), {}),
        ("fine", (0, 1), {"whole": True}),
        ("fine", (1.2, 1.8), {"whole": True}),
    ],
)
def test_a_hyperparameter_has_a_name_and_a_range(name: str, bounds: tuple[float, float], more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="hyperparameter"):
        Hyperparameter(name, "what", *bounds, **more)


@pytest.mark.parametrize("bounds", [(0, 1), (0, 1e6), (-3, -2), (1, 2), (0.5, 0.6), (4, 1e300)])
@pytest.mark.parametrize("more", [{}, {"open": False}, {"whole": True, "open": False}, {"whole": True}])
def test_examples_are_valid(bounds: tuple[float, float], more: dict[str, bool]) -> None:
    try:
        hyperparameter = Hyperparameter("mine", "what", *bounds, **more)
    except ValueError as error:
        assert "whole number" in str(error)  # noqa: PT017
    else:
        assert hyperparameter.check(hyperparameter.example, "") == hyperparameter.example


def test_feedback_alignment_with_the_weights_themselves_is_backpropagation(small_problem: Problem) -> None:
    rule = METHODS["fa"]
    pack = PackState(rule, small_problem.architecture, [example_configuration(rule)], [0], dtype=torch.float64)
    assert pack.feedback
    for i in small_problem.architecture.hidden:
        pack.feedback[f"Q{i}"].copy_(pack.forward[f"W{i + 1}"].mT)
    x, y = small_problem.batch(torch.arange(16).view(1, -1), torch.float64)
    batch = pack.minibatch(x, y)
    for mine, theirs in zip(aligned_targets(batch), gradient_targets(batch), strict=True):
        torch.testing.assert_close(mine, theirs)


def raising(batch: Minibatch) -> list[Tensor]:
    raise KeyError("gian\nt")


def leaving(batch: Minibatch) -> list[Tensor]:
    raise SystemExit(3)


def followed(batch: Minibatch) -> list[Tensor]:
    return [target.clone().requires_grad_() for target in gradient_targets(batch)]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (raising, r"Mine: .* KeyError: .*gian.*t.* \(test_rules\.py:\d+\)$"),
        (leaving, r"Mine: .* SystemExit: 3 \(test_rules\.py:\d+\)$"),
        (followed, r"Mine, .*layer 1.*gradient"),
    ],
)
def test_what_a_rule_raises_is_one_line_that_says_where(small_problem: Problem, rule: Rule, message: str) -> None:
    with pytest.raises(RuleError, match=message) as caught:
        trainer(method(rule), small_problem).advance()
    assert "\n" not in str(caught.value)
    (check,) = verify_method(method(rule))
    assert (check.name, check.passed) == ("targets", False)


def test_memory_that_does_not_suffice_is_no_fault_of_the_rule(small_problem: Problem) -> None:
    def hungry(batch: Minibatch) -> list[Tensor]:
        raise MemoryError

    with pytest.raises(MemoryError):
        trainer(method(hungry), small_problem).advance()
