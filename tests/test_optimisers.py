"""BertAdam: against the released one, its formula, and per-layer clipping of stacks. AdamW with ε as it once was."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vtrlib import training
from vtrlib.training import BertAdam, TransformersAdamW, adam, bert_adam, schedules, transformers_adamw
from vtrlib.training.optimisers import set_state, state_of

GOLDEN = torch.load(Path(__file__).parent / "golden" / "bertadam.pt", weights_only=True)


def weights(*shapes: tuple[int, ...], scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [(scale * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_() for shape in shapes]


def test_released_steps() -> None:
    """12 updates, some clipped, one tensor decayed; the rate goes below its warm-up, to 0 and stays there."""
    tensors = [tensor.clone().requires_grad_() for tensor in GOLDEN["init"]]
    groups = [
        {"params": [tensor], "weight_decay": decay}
        for tensor, decay in zip(tensors, GOLDEN["weight_decay"], strict=True)
    ]
    optimiser = BertAdam(groups, lr=GOLDEN["lr"])
    for number, step in enumerate(GOLDEN["steps"]):
        rate = schedules.linear(number, GOLDEN["t_total"], GOLDEN["warmup"], GOLDEN["lr"])
        assert rate == pytest.approx(GOLDEN["lr"] * step["lr_mult"], abs=1e-15)
        for tensor, gradient in zip(tensors, step["grads"], strict=True):
            tensor.grad = gradient.clone()
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        for tensor, expected in zip(tensors, step["params"], strict=True):
            torch.testing.assert_close(tensor.detach(), expected, rtol=0, atol=1e-6)


def test_formula() -> None:
    (x,) = weights((3, 4))
    before, gradients = x.detach().clone(), [5 * torch.ones(3, 4).double(), 0.01 * torch.ones(3, 4).double()]
    optimiser = BertAdam([x], lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.05, max_norm=2.0)
    m = v = torch.zeros(3, 4, dtype=torch.float64)
    for gradient in gradients:
        x.grad = gradient.clone()
        optimiser.step()
        assert x.grad.equal(gradient), "gradients stay as they are"
        g = gradient * min(1.0, 2.0 / (gradient.norm().item() + 1e-6))
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        before = before - 0.1 * (m / (v.sqrt() + 1e-3) + 0.05 * before)
        torch.testing.assert_close(x.detach(), before, rtol=1e-12, atol=1e-12)


def test_a_stack_is_clipped_layer_by_layer() -> None:
    together = weights((3, 4, 5))[0]
    apart = [layer.detach().clone().requires_grad_() for layer in together]
    one, many = BertAdam([{"params": [together], "stack": 1}], lr=0.1), BertAdam(apart, lr=0.1)
    for number in range(3):
        gradients = weights((3, 4, 5), scale=10.0**number)[0].detach() * torch.tensor([0.001, 1, 100])[:, None, None]
        together.grad = gradients
        for layer, gradient in zip(apart, gradients, strict=True):
            layer.grad = gradient
        one.step()
        many.step()
    torch.testing.assert_close(together.detach(), torch.stack([x.detach() for x in apart]), rtol=1e-12, atol=1e-12)
    whole = weights((3, 4, 5))[0]
    whole.grad = together.grad
    BertAdam([whole], lr=0.1).step()
    assert not torch.allclose(whole, together), "clipped as one tensor it is another update"


def test_state_survives_a_checkpoint() -> None:
    x, y = weights((3,), (3,))
    y.data = x.data.clone()
    first, second = BertAdam([x], lr=0.1), BertAdam([y], lr=0.1)
    for number in range(4):
        x.grad = y.grad = torch.full_like(x, number + 0.5)
        first.step()
        if number == 1:
            y.data = x.data.clone()
            second.load_state_dict(deepcopy(first.state_dict()))
        if number > 1:
            second.step()
    assert x.equal(y)


def test_factories_take_what_is_trained() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    model[0].bias.requires_grad_(False)
    config = training.Config(steps=1, learning_rate=0.3, weight_decay=0.2)
    for make, kind in ((adam, torch.optim.Adam), (bert_adam, BertAdam), (transformers_adamw, TransformersAdamW)):
        optimiser = make(model, config)
        assert isinstance(optimiser, kind)
        assert sum(len(group["params"]) for group in optimiser.param_groups) == 3
        assert all(group["lr"] == 0.3 and group["weight_decay"] == 0.2 for group in optimiser.param_groups)


def test_adamw_with_epsilon_outside_the_bias_correction() -> None:
    """The formula in plain numbers; torch's AdamW is where ε is nothing, and elsewhere where it is something."""
    (x,), rates = weights((3, 4)), (0.0, 0.1, 0.2, 0.05)
    gradients = [10.0**-k * weights((3, 4), scale=k + 1.0)[0].detach() for k in range(4)]
    theta, m, v = x.detach().clone(), torch.zeros_like(x.detach()), torch.zeros_like(x.detach())
    optimiser = TransformersAdamW([x], betas=(0.8, 0.9), eps=1e-2, weight_decay=0.3)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        x.grad = gradient.clone()
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        assert x.grad.equal(gradient), "gradients stay as they are"
        m, v = 0.8 * m + 0.2 * gradient, 0.9 * v + 0.1 * gradient**2
        theta = theta - rate * (1 - 0.9**t) ** 0.5 / (1 - 0.8**t) * m / (v.sqrt() + 1e-2)
        theta = theta - rate * 0.3 * theta
        torch.testing.assert_close(x.detach(), theta, rtol=1e-12, atol=1e-12)
    for eps, same in ((1e-12, True), (1e-2, False)):
        ours, theirs = weights((3, 4))[0], weights((3, 4))[0]
        other = torch.optim.AdamW([theirs], lr=1e-3, eps=eps, weight_decay=0)
        pair = TransformersAdamW([ours], lr=1e-3, eps=eps), other
        for gradient in gradients:
            ours.grad, theirs.grad = gradient.clone(), gradient.clone()
            for one in pair:
                one.step()
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-9) == same


def test_adamw_s_state_survives_a_checkpoint() -> None:
    x, y = weights((3,), (3,))
    y.data = x.data.clone()
    first, second = TransformersAdamW([x], lr=0.1), TransformersAdamW([y], lr=0.1)
    for number in range(4):
        x.grad = y.grad = torch.full_like(x, number + 0.5)
        first.step()
        if number == 1:
            y.data = x.data.clone()
            set_state(second, *deepcopy(state_of(first)))
        if number > 1:
            second.step()
    assert x.equal(y)


def test_closure_and_bad_settings() -> None:
    (x,) = weights((2,))
    optimiser = BertAdam([x])

    def closure() -> float:
        optimiser.zero_grad()
        loss = (x**2).sum()
        loss.backward()
        return loss.item()

    assert optimiser.step(closure) > (x**2).sum().item()
    optimiser = TransformersAdamW([x])
    assert optimiser.step(closure) > (x**2).sum().item()
    for settings in ({"lr": -1.0}, {"betas": (0.9, 1.5)}, {"weight_decay": float("nan")}, {"max_norm": -1.0}):
        with pytest.raises(ValueError, match="expected a finite number"):
            BertAdam([x], **settings)  # type: ignore[arg-type]
    for settings in ({"lr": -1.0}, {"betas": (0.9, 1.0)}, {"weight_decay": float("nan")}, {"eps": -1.0}):
        with pytest.raises(ValueError, match="expected a finite number"):
            TransformersAdamW([x], **settings)  # type: ignore[arg-type]
