"""Rules of later and neighbouring papers, as functions of a minibatch; :mod:`tpbench.engine.methods` declares them.

Notation: ``h_i = tanh(a_i)``, ``a_i = W_i h_{i-1} + b_i``, e = dL/dh_L of one sample (softmax minus one-hot label),
``delta_i`` the error of a_i, B the batch size. Losses are means over the batch, so every error here holds 1/B, and the
gradient of W_i is ``sum over the batch of delta_i h_{i-1}^T``. Adam takes all steps. Each docstring says in what the
authors' own code differs.
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import TYPE_CHECKING

from tpbench.engine.parts import Architecture, Draw, RuleArray

if TYPE_CHECKING:
    from torch import Tensor

    from tpbench.engine.methods import Minibatch, Update
    from tpbench.engine.network import Parameters


def errors_sent_back(batch: Minibatch, send: Callable[[int, Tensor], Tensor]) -> Update:
    """Return the errors of all pre-activations, sent from layer to layer.

    Args:
        batch: the minibatch.
        send: returns the error of h_{i-1} (P, B, n_{i-1}), new memory, of i and the error of a_i.
    """
    from tpbench.engine.methods import Update

    errors = [batch.output_gradient]
    for i in range(batch.architecture.depth, 1, -1):
        errors.insert(0, send(i, errors[0]).mul_(batch.slopes[i - 1]))
    return Update(errors)


def _memory(batch: Minibatch, name: str, like: Tensor) -> Tensor:
    """Return memory of the shape of a tensor, the same in each step: fresh memory is slow."""
    return like.new_empty(like.shape) if batch.workspace is None else batch.workspace(name, *like.shape)


def _arrays_of(batch: Minibatch) -> Parameters:
    """Return the arrays of the feedback map and the rule's own.

    Raises:
        ValueError: the method has none.
    """
    if batch.arrays is None:
        raise ValueError("the rule needs arrays of its own")
    return batch.arrays


# Kolen-Pollack.


def kolen_pollack_arrays(architecture: Architecture) -> dict[str, RuleArray]:
    """Return ``D{i}`` = ``B_i^T - W_i`` of the layers 2 .. L: how far the feedback matrices are from the weights."""
    return {
        f"D{i}": RuleArray((architecture.sizes[i], architecture.sizes[i - 1]), _initial_difference(i))
        for i in architecture.layers[1:]
    }


def _initial_difference(i: int) -> Callable[[Draw], Tensor]:
    def draw(given: Draw) -> Tensor:
        from tpbench.engine.network import xavier_normal

        return xavier_normal(given.shape, given.generator) - given.arrays[f"W{i}"]

    return draw


def kolen_pollack_update(batch: Minibatch) -> Update:
    """Send errors back by matrices that take the steps of the weights, and decay with them (Akrout et al. 2019).

    ``delta_{i-1} = (B_i delta_i) * slope_{i-1}``, B_i in the place of W_i^T. As W and B take the same step, whatever
    the optimiser, ``D_i = B_i^T - W_i`` only decays, and D is what is kept (:func:`decay_differences`).

    Only where all weights step: with frozen ones D would give their transpose away. Source: Akrout et al., "Deep
    Learning without Weight Transport", 2019; code makrout/Deep-Learning-without-Weight-Transport. There: SGD, and the
    decay acts on W too (here the hyperparameter wd does that); dW is a sum over the
    batch, B times this gradient, and db a mean that is divided by B once more, so that biases learn B times slower.
    """
    import torch

    weights, differences = batch.forward_parameters, _arrays_of(batch)

    def send(i: int, error: Tensor) -> Tensor:
        weight = weights[f"W{i}"]
        return batch.product(error, torch.add(weight, differences[f"D{i}"], out=_memory(batch, f"sent by {i}", weight)))

    return errors_sent_back(batch, send)


def decay_differences(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    """Let the differences between feedback matrices and weights decay: ``D <- (1 - kp_decay) D``."""
    differences = _arrays_of(batch)
    for i in batch.architecture.hidden:
        differences[f"D{i + 1}"].mul_(1 - batch.of_layer("kp_decay", i))


# Weight mirrors.


def mirror_weights(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    """Let each feedback matrix see noise beside what the layer above makes of it (Akrout et al. 2019).

    Uniform noise x of amplitude 0.1 (from -0.05 to 0.05) goes into layer i, ``z = tanh(W_{i+1} x + b_{i+1})`` comes
    out, and ``Q_i <- (1 - wm_decay) Q_i + wm_rate sum over the batch of x z^T``; the output layer has a tanh here too.
    The expected change is proportional to W_{i+1}^T.

    Source: FCNN_WM.py of makrout/Deep-Learning-without-Weight-Transport. There: no decay (the line that should keep Q
    from growing has no effect), and one phase per minibatch before the first step (here ``fb_pretrain_epochs: 1``).
    """
    import torch

    from tpbench.engine.precision import tanh_

    arrays, weights = _arrays_of(batch), batch.forward_parameters
    for i, draws in zip(batch.architecture.hidden, noise, strict=True):
        # The distribution function makes normal draws uniform.
        x = torch.special.ndtr(draws).sub_(0.5).mul_(0.1)
        z = tanh_(torch.baddbmm(weights[f"b{i + 1}"].unsqueeze(1), x, weights[f"W{i + 1}"].mT))
        arrays[f"Q{i}"].mul_(1 - batch.of_layer("wm_decay", i)).add_(batch.of_layer("wm_rate", i) * torch.bmm(x.mT, z))


def hidden_widths(architecture: Architecture) -> tuple[int, ...]:
    """Return the widths of the hidden layers."""
    return tuple(architecture.sizes[i] for i in architecture.hidden)


def layerwise_update(batch: Minibatch) -> Update:
    """Send errors back by the matrices Q_i, from layer i + 1 to layer i: ``delta_i = (Q_i delta_{i+1}) * slope_i``."""
    arrays = _arrays_of(batch)
    return errors_sent_back(batch, lambda i, error: batch.product(error, arrays[f"Q{i - 1}"].mT))


# Sign symmetry.


def uniform_sign_update(batch: Minibatch) -> Update:
    """Send errors back by the signs of the weights, all of one size (uSF).

    ``delta_{i-1} = (V_i^T delta_i) * slope_{i-1}``, ``V_i = sqrt(2 / (n_i + n_{i-1})) sign(W_i)``, the sign of the
    current weights.

    Source: Liao et al., "How Important Is Weight Symmetry in Backpropagation?", 2016; Xiao et al. 2018; code
    jsalbert/biotorch, initialisation "xavier". There: SGD or Adam with weight decay (here wd), biases too.
    """
    import torch

    weights = batch.forward_parameters

    def send(i: int, error: Tensor) -> Tensor:
        weight = weights[f"W{i}"]
        signs = torch.sign(weight, out=_memory(batch, f"sent by {i}", weight))
        # The error has fewer numbers than the matrix.
        return batch.product(error, signs).mul_(sqrt(2 / (weight.shape[1] + weight.shape[2])))

    return errors_sent_back(batch, send)


def fixed_sign_update(batch: Minibatch) -> Update:
    """Send errors back by fixed magnitudes with the signs of the weights (frSF): ``V_i = M_i * sign(W_i)``.

    M_i is the absolute value of a Xavier-uniform draw. Source: as :func:`uniform_sign_update`.
    """
    import torch

    weights, magnitudes = batch.forward_parameters, _arrays_of(batch)

    def send(i: int, error: Tensor) -> Tensor:
        weight = weights[f"W{i}"]
        signs = torch.sign(weight, out=_memory(batch, f"sent by {i}", weight))
        return batch.product(error, signs.mul_(magnitudes[f"M{i}"]))

    return errors_sent_back(batch, send)


def sign_arrays(architecture: Architecture) -> dict[str, RuleArray]:
    """Return the magnitudes ``M{i}`` of the layers 2 .. L."""
    sizes = architecture.sizes
    return {f"M{i}": RuleArray((sizes[i], sizes[i - 1]), _magnitudes) for i in architecture.layers[1:]}


def _magnitudes(given: Draw) -> Tensor:
    """Draw the absolute values of Xavier-uniform numbers."""
    import torch

    bound = sqrt(6 / sum(given.shape))
    return torch.rand(given.shape, generator=given.generator, dtype=torch.float64).mul_(bound)


def draw_magnitudes(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    """Draw the magnitudes of :func:`fixed_sign_update` anew for each minibatch (brSF).

    Source: as :func:`uniform_sign_update`. There: they are drawn in evaluation too, which changes nothing but the
    numbers that follow.
    """
    import torch

    arrays = _arrays_of(batch)
    for name in arrays:
        rows, columns = arrays[name].shape[1:]
        # The distribution function makes normal draws uniform.
        arrays[name].copy_(torch.special.ndtr(batch.draw(rows, columns)).mul_(sqrt(6 / (rows + columns))))


# Direct feedback.


def direct_random_target_update(batch: Minibatch) -> Update:
    """Send the one-hot label to each hidden layer by a fixed random matrix (DRTP).

    ``delta_i = (Q_i y) * slope_i / B``; no error is sent back, and the output layer has its own.

    Source: Frenkel et al., "Learning Without Feedback: Fixed Random Learning Signals Allow for Feedforward Training of
    Deep Neural Networks", 2021. There: the label is not divided by B, though the output's error is, and the matrices
    are Kaiming-uniform; here they are Xavier-normal, as all feedback. Adam's step hardly depends on such a factor.

    Raises:
        ValueError: the labels are no classes.
    """
    from tpbench.engine.methods import Update

    labels, arrays = batch.labels, _arrays_of(batch)
    if labels is None or labels.is_floating_point():
        raise ValueError("direct random target projection needs class labels")
    one_hot = batch.output_gradient.new_zeros(batch.output_gradient.shape)
    one_hot.scatter_(-1, labels.unsqueeze(-1), 1 / labels.shape[1])
    hidden = batch.architecture.hidden
    errors = [batch.product(one_hot, arrays[f"Q{i}"].mT).mul_(batch.slopes[i]) for i in hidden]
    return Update([*errors, batch.output_gradient])


def direct_update(batch: Minibatch) -> Update:
    """Send the output's error to each hidden layer directly: ``delta_i = (Q_i e) * slope_i / B``."""
    from tpbench.engine.methods import Update

    arrays, hidden = _arrays_of(batch), batch.architecture.hidden
    errors = [batch.product(batch.output_gradient, arrays[f"Q{i}"].mT).mul_(batch.slopes[i]) for i in hidden]
    return Update([*errors, batch.output_gradient])


def train_direct_feedback(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    """Write the gradients of direct Kolen-Pollack feedback: ``dQ_i = sum over the batch of h_i e^T / B``.

    Source: Webster, Choi and Ahn, "Learning the Connections in Direct Feedback Alignment", 2021: the forward matrix of
    the output layer would get this gradient if layer i were the one below it; weight decay (wd_fb) lets the start be
    forgotten. Here Adam takes the step, with rates of its own.
    """
    import torch

    for i in batch.architecture.hidden:
        torch.bmm(batch.activities[i].mT, batch.output_gradient, out=into[f"Q{i}"])


# Fixed-weight difference target propagation.


def uniform_feedback(given: Draw) -> Tensor:
    """Draw a matrix of uniform numbers between -fb_scale and fb_scale."""
    import torch

    numbers = torch.rand(given.shape, generator=given.generator, dtype=torch.float64)
    return numbers.mul_(2).sub_(1).mul_(given.configuration["fb_scale"])


def lee_targets(batch: Minibatch) -> list[Tensor]:
    """Take the target of the last hidden layer from the gradient, and send it back from there (Lee et al. 2015).

    ``hhat_{L-1} = h_{L-1} - eta dL/dh_{L-1}``, below it ``hhat_i = h_i + g_i(hhat_{i+1}) - g_i(h_{i+1})``; the output
    has the target of equation 2. The paper's DTP instead sends the output target through g_{L-1}, as the "simplified"
    DTP of Bartunov et al. (2018). Here g_{L-1} is trained like the others and sends nothing.

    Source: Lee et al., "Difference Target Propagation", 2015, Algorithm 1.
    """
    from tpbench.engine.methods import feedback_of

    depth, state = batch.architecture.depth, feedback_of(batch)
    eta = batch.of_layer("eta")
    gradient = batch.layers[-1].backward(batch.forward_parameters, batch.output_gradient, batch.matmul)
    targets, memory = [gradient.mul_(-eta), batch.output_gradient * -eta], state.memory_name()
    for i in range(depth - 2, 0, -1):
        targets.insert(0, state.difference(i, targets[0].unsqueeze(1), memory).squeeze(1))
    return targets


# L-DRL.


def train_local_difference(batch: Minibatch, noise: list[Tensor], into: Parameters) -> Tensor:
    """Write the gradients of the local difference reconstruction loss (L-DRL) of every g_i.

    ``mean over the batch of -2 xi . (g_i(f(h_i + xi)) - g_i(h_{i+1})) + |g_i(h_{i+1} + zeta) - g_i(h_{i+1})|^2``, f
    layer i + 1, xi and zeta normal of deviation sigma. Its minimum is the transpose of f's Jacobian. The gradient runs
    through all of g_i, also at h_{i+1}, and never through f.

    Source: Ernoult et al., "Towards Scaling Difference Target Propagation by Learning Backprop Targets", 2022; code
    ernoult/scalingDTP, target_prop/feedback_loss.py. There: SGD with momentum for g, several steps (here fb_steps) with
    numbers of their own for each layer, the affine map after the activation.

    Returns:
        The losses of the hidden layers, (P, L-1).
    """
    import torch

    from tpbench.engine.methods import feedback_of

    state, hidden = feedback_of(batch), batch.architecture.hidden
    size = batch.output_gradient.shape[1]
    losses = []
    for k, i in enumerate(hidden):
        sigma = batch.of_layer("sigma", i)
        xi, zeta = noise[k] * sigma, noise[len(hidden) + k] * sigma
        layer = batch.layers[i]
        slope = batch.slopes[i + 1] if layer.squash else None
        there = torch.empty_like(zeta).unsqueeze(1)
        layer.difference(
            batch.forward_parameters,
            xi.unsqueeze(1),
            batch.activities[i + 1],
            slope,
            there,
            state.workspace,
            state.matmul,
        )
        back = state.difference(i, there, "l-drl forth")[:, 0]
        around = state.difference(i, zeta.unsqueeze(1), "l-drl around")[:, 0]
        loss = (around.square() - 2 * xi * back).sum((1, 2)) / size
        state.gradient(i, xi.mul_(-2 / size), there[:, 0], back, corrected=True, into=into)
        state.gradient(i, around * (2 / size), zeta, around, corrected=True, into=into, accumulate=True)
        losses.append(loss)
    return torch.stack(losses, 1)


def local_difference_widths(architecture: Architecture) -> tuple[int, ...]:
    """Return the widths of the noise at every hidden layer, then of that at the layer above each."""
    return (*hidden_widths(architecture), *(architecture.sizes[i + 1] for i in architecture.hidden))


# Deep feedback control.


def controller_arrays(architecture: Architecture) -> dict[str, RuleArray]:
    """Return ``Q{i}`` (n_i, n_L) from the controller to every layer, the identity for the output, and ``C``, |Q|^2."""
    import torch

    sizes, depth = architecture.sizes, architecture.depth
    arrays = {f"Q{i}": RuleArray((sizes[i], sizes[-1]), trained=True) for i in architecture.hidden}
    arrays[f"Q{depth}"] = RuleArray(
        (sizes[-1], sizes[-1]), lambda given: torch.eye(sizes[-1], dtype=torch.float64), trained=True
    )

    def squares(given: Draw) -> Tensor:
        return torch.stack([given.arrays[f"Q{i}"].square().sum() for i in architecture.layers]).sum().view(1)

    return {**arrays, "C": RuleArray((1,), squares)}


def controlled_widths(architecture: Architecture) -> tuple[int, ...]:
    """Return the widths of the layers 1 .. L."""
    return architecture.sizes[1:]


def controlled_update(batch: Minibatch) -> Update:
    """Let a controller bring the output to its target, at the steady state of the linearised network (DFC-SSA).

    ``u = (sum_i J_i Q_i + damping_dfc 1)^{-1} (hhat_L - h_L)``, J_i = dh_L/da_i at the forward pass, hhat_L as in
    equation 2. Then upwards ``v_i = W_i r_{i-1} + b_i + Q_i u``, ``r_i = tanh(v_i)``, r_0 = x, the output linear. The
    gradient is ``dW_i = -(2 / B) sum over the batch of (r_i - tanh(v_i - Q_i u)) r_{i-1}^T``: no slope, and the
    controlled activity of the layer below.

    Source: Meulemans et al., "Credit Assignment in Neural Networks through Deep Feedback Control", 2021; code
    meulemansalex/deep_feedback_control. The rate of Adam is lr_eta / eta, as there with normalize_lr.
    """
    import torch

    from tpbench.engine.gauss_newton import output_jacobians
    from tpbench.engine.methods import Update
    from tpbench.engine.precision import tanh_difference_, tanh_slope

    weights, arrays, slopes = batch.forward_parameters, _arrays_of(batch), batch.slopes
    depth, size = batch.architecture.depth, batch.output_gradient.shape[1]
    arrived = arrays[f"Q{depth}"].double().unsqueeze(1)
    for i, jacobian in zip(batch.architecture.hidden, output_jacobians(weights, slopes, depth), strict=True):
        through = jacobian.double() * slopes[i].double().unsqueeze(2)
        arrived = arrived + through @ arrays[f"Q{i}"].double().unsqueeze(1)
    damping = batch.hyperparameters["damping_dfc"].double().view(-1, 1, 1, 1)
    identity = torch.eye(arrived.shape[-1], dtype=torch.float64, device=arrived.device)
    change = -batch.of_layer("eta") * batch.output_gradient
    # solve would look at the host whether each system is regular; a singular one makes its own member diverge.
    solved = torch.linalg.solve_ex(arrived + damping * identity, change.double().unsqueeze(-1))
    control = solved.result.squeeze(-1).to(change)
    errors, inputs = [], [batch.activities[0]]
    below = None
    for i in batch.architecture.layers:
        given = torch.bmm(control, arrays[f"Q{i}"].mT)
        # From the forward pass: first what the layer below changes, then the controller's own part on top of it.
        moved = torch.zeros_like(given) if below is None else torch.bmm(below, weights[f"W{i}"].mT)
        if i == depth:
            errors.append(given * (-2 / size))
            break
        h = batch.activities[i]
        uncontrolled = tanh_difference_(h, slopes[i], moved.clone())
        rest = h + uncontrolled
        own = tanh_difference_(rest, tanh_slope(rest), given)
        errors.append(own * (-2 / size))
        below = uncontrolled + own
        inputs.append(h + below)
    return Update(errors, inputs)


def train_controller(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    """Write the gradients of the controller's feedback, clipped together: :func:`controller_gradients`."""
    from tpbench.engine.step import clip_together

    controller_gradients(batch, noise, into)
    arrays, names = _arrays_of(batch), [f"Q{i}" for i in batch.architecture.layers]
    clip_together([into[name] for name in names], batch.hyperparameters["clip"])
    # No step at all: what is written cancels Adam's weight decay.
    frozen = batch.of_layer("frozen_output_fb")
    kept = batch.of_layer("wd_fb") * arrays[names[-1]]
    into[names[-1]].copy_(into[names[-1]] * (1 - frozen) - kept * frozen)


def controller_gradients(batch: Minibatch, noise: list[Tensor], into: Parameters) -> None:
    """Write the gradients of the controller's feedback from a noisy simulation that should stay at the output.

    The target is h_L, z_i is noise in the apical part of each unit, T = times_fb the number of time points. Everything
    is the deviation from the forward pass, w_i of the voltages and rho_i of the activities, rho_0 = 0:

    - ``I += dt (-rho_L - leak_fb u)``, ``u = I - k_p_fb rho_L``;
    - from the input up ``va_i += dt / tau_apical (Q_i u_old - va_i) + sigma_i sqrt(dt) / tau_apical z_i`` and
      ``w_i += dt / tau (va_i + W_i rho_{i-1} - w_i)``.

    ``dQ_i = sum over time and batch of va_i[k] u[k + 1]^T / (max(sigma, 0.01)^2 (T - 1) B) + hwd_fb (|Q|^2 - C) Q_i``.

    Source: as :func:`controlled_update`. There a whole epoch trains the feedback, then a whole one the weights; here
    the two alternate in each minibatch, and pure feedback epochs come between (fb_epochs_between).
    """
    import torch

    from tpbench.engine.precision import tanh_difference_

    weights, arrays, layers = batch.forward_parameters, _arrays_of(batch), batch.architecture.layers
    depth, size = batch.architecture.depth, batch.output_gradient.shape[1]
    dt, tau, apical = (batch.of_layer(name) for name in ("dt_fb", "tau_fb", "tau_apical_fb"))
    leak, proportional = batch.of_layer("leak_fb"), batch.of_layer("k_p_fb")
    sigma, output_sigma = batch.of_layer("sigma"), batch.of_layer("sigma_output_fb")
    scales = {i: (output_sigma if i == depth else sigma) * dt.sqrt() / apical for i in layers}
    times = [int(configuration["times_fb"]) for configuration in batch.configurations]
    u = torch.zeros_like(batch.output_gradient)
    integral = torch.zeros_like(u)
    voltages = {i: torch.zeros_like(batch.activities[i]) for i in layers}
    deviations = {i: torch.zeros_like(batch.activities[i]) for i in layers}
    output_change = torch.zeros_like(u)
    for k in range(max(times) - 1):
        if k >= min(times) - 1:
            # Members whose time is over are at rest: what went on could grow without bound.
            over = _mask(u, [k >= count - 1 for count in times]).bool()
            for state in (integral, output_change, u, *voltages.values(), *deviations.values()):
                state.masked_fill_(over, 0)
        integral = integral + dt * (-output_change - leak * u)
        following = integral - proportional * output_change
        below = None
        for i in layers:
            into[f"Q{i}"].baddbmm_(voltages[i].mT, following)
            drive = torch.bmm(u, arrays[f"Q{i}"].mT) - voltages[i]
            voltages[i] = voltages[i] + dt / apical * drive + scales[i] * noise[k * depth + i - 1]
            pull = voltages[i] - deviations[i]
            if below is not None:
                pull = pull + torch.bmm(below, weights[f"W{i}"].mT)
            deviations[i] = deviations[i] + dt / tau * pull
            below = deviations[i]
            if i < depth:
                below = tanh_difference_(batch.activities[i], batch.slopes[i], deviations[i].clone())
        assert below is not None
        output_change, u = below, following
    counts = _of_list(u, [1 / (max(count - 1, 1) * size) for count in times])
    names = [f"Q{i}" for i in layers]
    norms = torch.stack([arrays[name].square().sum((1, 2)) for name in names]).sum(0)
    decay = (batch.hyperparameters["hwd_fb"] * (norms - arrays["C"].squeeze(1))).view(-1, 1, 1)
    for name in names:
        into[name].mul_(counts / sigma.clamp_min(0.01).square()).add_(decay * arrays[name])


def _of_list(like: Tensor, numbers: list[float]) -> Tensor:
    """Return one number of the host per member, (P, 1, 1)."""
    import torch

    if len(set(numbers)) == 1:
        return torch.full((len(numbers), 1, 1), numbers[0], dtype=like.dtype, device=like.device)
    return torch.cat([torch.full((1, 1, 1), number, dtype=like.dtype, device=like.device) for number in numbers])


def _mask(like: Tensor, members: list[bool]) -> Tensor:
    """Return 1 for some members and 0 for the others, (P, 1, 1)."""
    return _of_list(like, [float(value) for value in members])


# PEPITA.


def modulation_arrays(architecture: Architecture) -> dict[str, RuleArray]:
    """Return ``F`` (n_0, n_L) from the output's error to the input."""
    return {"F": RuleArray((architecture.sizes[0], architecture.sizes[-1]), _modulation)}


def _modulation(given: Draw) -> Tensor:
    import torch

    bound = given.configuration["pepita_scale"] * sqrt(6 / given.shape[0])
    return torch.rand(given.shape, generator=given.generator, dtype=torch.float64).mul_(2).sub_(1).mul_(bound)


def modulated_input_update(batch: Minibatch) -> Update:
    """Compare the forward pass with a second one whose input has the error added (PEPITA).

    ``e = softmax(h_L) - y``, second pass herr from ``x + F e``; ``dW_i = sum over the batch of (h_i - herr_i)
    herr_{i-1}^T / B`` for hidden layers, ``(softmax(herr_L) - y) herr_{L-1}^T / B`` for the output: no slope.

    Source: Dellaferrera and Kreiman, "Error-driven Input Modulation", 2022; code GiorgiaD/PEPITA. There: ReLU, dropout,
    SGD with momentum and a schedule, no biases; F is 0.05 times He-uniform.

    Raises:
        ValueError: the labels are no classes.
    """
    import torch

    from tpbench.engine.methods import Update
    from tpbench.engine.network import cross_entropy

    labels, size, arrays = batch.labels, batch.output_gradient.shape[1], _arrays_of(batch)
    if labels is None or labels.is_floating_point():
        raise ValueError("PEPITA needs class labels")
    # The second pass as its difference from the first, which loses no digits.
    change = torch.bmm(batch.output_gradient * size, arrays["F"].mT)
    inputs, errors = [batch.activities[0] + change], []
    for i in batch.architecture.hidden:
        change = batch.difference(i, change)
        inputs.append(batch.activities[i] + change)
        errors.append(change / -size)
    outputs = batch.activities[-1] + batch.difference(batch.architecture.depth, change)
    return Update([*errors, cross_entropy(outputs, labels)[2]], inputs)


# Predictive coding.


def relaxed_update(batch: Minibatch) -> Update:
    """Let the hidden activities relax for pc_steps steps, then learn from the prediction errors.

    ``x_i`` starts at h_i; with ``eps_i = x_i - tanh(a_i)``, a_i the pre-activation of x_{i-1}, and the loss's gradient
    g_L in the place of -eps_L, each step is ``x_i += pc_rate (-eps_i - W_{i+1}^T err_{i+1})``, ``err_i = -eps_i *
    slope(a_i)`` and err_L = g_L. Then ``dW_i = sum over the batch of err_i x_{i-1}^T / B``.

    Source: Whittington and Bogacz, "An Approximation of the Error Backpropagation Algorithm in a Predictive Coding
    Network with Local Hebbian Synaptic Plasticity", 2017; the number of steps is fixed, and the output is driven by the
    loss's gradient instead of being clamped.

    Raises:
        ValueError: the labels are no classes.
    """
    import torch

    from tpbench.engine.methods import Update
    from tpbench.engine.network import cross_entropy
    from tpbench.engine.precision import tanh_slope

    labels, size, hidden = batch.labels, batch.output_gradient.shape[1], batch.architecture.hidden
    if labels is None or labels.is_floating_point():
        raise ValueError("predictive coding needs class labels")
    counts = [int(configuration["pc_steps"]) for configuration in batch.configurations]
    # Everything as its difference from the forward pass, which loses no digits: moved[i] = x_i - h_i.
    moved = [torch.zeros_like(h) for h in batch.activities[:-1]]

    def prediction_errors() -> tuple[list[Tensor], list[Tensor]]:
        """Return eps_1 .. eps_{L-1} and err_1 .. err_L, without 1/B."""
        changes = [batch.difference(i, moved[i - 1]) for i in batch.architecture.layers]
        eps = [moved[i] - changes[i - 1] for i in hidden]
        outputs = batch.activities[-1] + changes[-1]
        slopes = [tanh_slope(batch.activities[i] + changes[i - 1]) for i in hidden]
        errors = [-e * slope for e, slope in zip(eps, slopes, strict=True)]
        return eps, [*errors, cross_entropy(outputs, labels)[2] * size]

    for k in range(max(counts)):
        eps, errors = prediction_errors()
        for i in hidden:
            pull = eps[i - 1] + batch.product(errors[i], batch.forward_parameters[f"W{i + 1}"])
            if k >= min(counts):
                # Members whose steps are over stay: 0 times a pull that grew without bound would not be 0.
                pull.masked_fill_(_mask(pull, [k >= count for count in counts]).bool(), 0)
            moved[i] = moved[i] - batch.of_layer("pc_rate", i) * pull
    errors = prediction_errors()[1]
    x = [h + change for h, change in zip(batch.activities, moved, strict=False)]
    return Update([error / size for error in errors], x)
