"""Noisy: a drift and a diffusion as one field, their weights, shapes and the two interpretations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odenet as on
from odenet.errors import BadInput
from odenet.fields import FirstOrder, Free, Noisy, SecondOrder

pytestmark = pytest.mark.usefixtures("double")


def linear(t: float, y: Tensor) -> Tensor:
    return -y


def matrix(t: float, y: Tensor) -> Tensor:
    return torch.stack((y, torch.sin(y)), -1)


def test_the_field_is_its_drift_and_offers_noise() -> None:
    y = torch.randn(3, 2)
    field = Noisy(linear, lambda y: 0.1 * y)
    assert field.offers == {"noise"}
    assert torch.equal(field(0.3, y, {}), -y)
    assert torch.equal(field.diffusion(0.3, y, {}), 0.1 * y)
    assert (field.noise, field.interpretation, field.init()) == ("diagonal", "ito", {})


@pytest.mark.parametrize(("noise", "dim", "state", "shape"), [
    ("diagonal", None, (5, 3), (5, 3)),
    ("diagonal", None, (3,), (3,)),
    ("additive", None, (5, 3, 4, 4), (5, 3, 4, 4)),
    ("additive", 2, (5, 3), (5, 2)),
    ("scalar", None, (5, 3), (5, 1)),
    ("scalar", None, (5, 3, 4, 4), (5, 1, 1, 1)),
    ("scalar", None, (3,), ()),
    ("scalar", None, (), ()),
    ("general", 7, (5, 3), (5, 7)),
    ("general", 7, (5, 3, 4), (5, 7)),
    ("general", 7, (3,), (7,)),
])  # fmt: skip
def test_each_kind_of_noise_has_its_motions(noise: Any, dim: int | None, state: tuple, shape: tuple) -> None:
    assert Noisy(linear, linear, noise, dim=dim).brownian_shape(torch.zeros(state)) == shape


@pytest.mark.parametrize(("noise", "dim", "g"), [
    ("diagonal", None, lambda y: torch.ones(3)),
    ("diagonal", None, lambda y: torch.ones(2, 1)),
    ("scalar", None, lambda y: torch.ones(2, 3, 1)),
    ("general", 2, lambda y: y),
    ("general", 2, lambda y: torch.ones(2, 3, 3)),
    ("additive", 2, lambda y: torch.ones(3, 2)),
])  # fmt: skip
def test_a_diffusion_of_another_shape_is_refused(noise: Any, dim: int | None, g: Any) -> None:
    with pytest.raises(BadInput, match=rf"the diffusion of {noise} noise for a state \(2, 3\) has the shape"):
        Noisy(linear, g, noise, dim=dim).diffusion(0.0, torch.zeros(2, 3), {})


@pytest.mark.parametrize(("arguments", "words"), [
    (dict(noise="pink"), "noise 'pink' is not known"),
    (dict(interpretation="Ito"), "interpretation 'Ito' is not known"),
    (dict(noise="general"), "general noise needs dim=m"),
    (dict(noise="diagonal", dim=3), "diagonal noise takes no dim"),
    (dict(noise="scalar", dim=1), "scalar noise takes no dim"),
    (dict(noise="general", dim=0), "1 or more, got 0"),
    (dict(noise="general", dim=True), "1 or more, got True"),
    (dict(diffusion=0.3), "diffusion part of Noisy is a function"),
    (dict(drift=None), "drift part of Noisy is a function"),
    (dict(drift=lambda a, b, c: a), "3 required arguments"),
    (dict(drift=SecondOrder(3)), "second-order field"),
])  # fmt: skip
def test_what_cannot_be_a_stochastic_equation_is_refused_in_a_sentence(arguments: dict, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Noisy(**{"drift": linear, "diffusion": linear, **arguments})


def test_a_second_order_drift_goes_in_as_a_first_order_one() -> None:
    field = Noisy(FirstOrder(SecondOrder(2)), lambda t, y: torch.ones_like(y), "additive")
    assert field(0.0, torch.randn(3, 4), field.init(torch.Generator().manual_seed(0))).shape == (3, 4)


def test_the_weights_of_both_modules_are_used_and_get_gradients() -> None:
    f, g = nn.Linear(3, 3), nn.Linear(3, 3)
    field, y = Noisy(f, g), torch.randn(2, 3)
    p = {k: (2 * v).requires_grad_() for k, v in field.init().items()}
    assert set(p) == {"drift/weight", "drift/bias", "diffusion/weight", "diffusion/bias"}
    torch.testing.assert_close(field(0.0, y, p), 2 * f(y))
    torch.testing.assert_close(field.diffusion(0.0, y, p), 2 * g(y))
    (field(0.0, y, p).sum() + field.diffusion(0.0, y, p).sum()).backward()
    assert all(v.grad is not None and bool(v.grad.any()) for v in p.values())
    assert f.weight.grad is None


def test_modules_keep_their_weights_under_the_names_of_init_and_are_not_registered() -> None:
    field = Noisy(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    assert field.module is not None
    names = {n.replace(".", "/") for n, _ in field.module.named_parameters()}
    assert names == set(field.init()) and not list(field.parameters())
    assert Noisy(linear, nn.Linear(2, 2)).module is not None and Noisy(linear, linear).module is None
    assert Noisy(Free(2), nn.Linear(2, 2)).module is None  # Free keeps none: a flow owns all of them


def test_a_drift_that_is_a_field_has_its_constraint_and_its_own_draws() -> None:
    field, y = Noisy(Free(3), lambda t, y: torch.ones_like(y), "additive"), torch.randn(4, 3)
    p = field.constrain(field.init(torch.Generator().manual_seed(1)))
    free = Free(3)
    own = free.constrain(free.init(torch.Generator().manual_seed(1)))
    assert set(p) == {f"drift/{k}" for k in own}
    assert torch.equal(field(0.0, y, p), free(0.0, y, own))


def test_training_mode_reaches_the_modules_and_a_random_one_is_named() -> None:
    dropout = nn.Dropout(0.5)
    field = Noisy(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), dropout))
    assert "Dropout" in (field.stateful() or "")
    field.eval()
    assert not dropout.training
    assert Noisy(nn.Linear(2, 2), linear).stateful() is None


# ---- Ito and Stratonovich


def test_geometric_brownian_motion_changes_its_drift_by_half_sigma_squared() -> None:
    y, sigma = torch.randn(4, 3), 0.7
    ito = Noisy(lambda y: 0.2 * y, lambda y: sigma * y)
    torch.testing.assert_close(ito.as_stratonovich()(0.0, y, {}), (0.2 - sigma**2 / 2) * y)
    stratonovich = Noisy(lambda y: 0.2 * y, lambda y: sigma * y, interpretation="stratonovich")
    torch.testing.assert_close(stratonovich.as_ito()(0.0, y, {}), (0.2 + sigma**2 / 2) * y)
    assert ito.as_stratonovich().interpretation == "stratonovich" and ito.interpretation == "ito"


def test_there_and_back_is_the_drift_itself() -> None:
    field, y = Noisy(linear, torch.sin), torch.randn(2, 3)
    assert field.as_ito() is field
    back = field.as_stratonovich().as_ito()
    assert torch.equal(back(0.0, y, {}), -y) and not back.corrected
    assert field.as_stratonovich().corrected


def test_additive_noise_is_the_same_in_both_senses() -> None:
    field, y = Noisy(linear, lambda t, y: torch.ones_like(y), "additive"), torch.randn(2, 3)
    other = field.as_stratonovich()
    assert other.interpretation == "stratonovich" and not other.corrected
    assert torch.equal(other(0.0, y, {}), -y)


@pytest.mark.parametrize(("noise", "dim"), [("scalar", None), ("general", 2)])
def test_the_correction_is_the_sum_over_motions_by_autograd(noise: Any, dim: int | None) -> None:
    """1/2 sum_j (dg_j/dy) g_j with Jacobians by reverse mode; g couples the entries of y."""
    mix = torch.randn(3, 3)

    def g(t: float, y: Tensor) -> Tensor:
        column = torch.sin(y @ mix) + t
        return column if dim is None else torch.stack((column, y.roll(1, -1) ** 2), -1)

    y, t = torch.randn(3), 0.4
    field = Noisy(linear, g, noise, dim=dim)
    columns = [lambda x: g(t, x)] if dim is None else [lambda x, j=j: g(t, x)[..., j] for j in range(dim)]
    wanted = sum(torch.autograd.functional.jacobian(column, y) @ column(y) for column in columns)
    torch.testing.assert_close(field.as_stratonovich()(t, y, {}), -y - 0.5 * wanted)
    batch = torch.stack((y, 2 * y))
    torch.testing.assert_close(field.as_stratonovich()(t, batch, {})[0], -y - 0.5 * wanted)


def test_the_correction_is_differentiable_in_state_and_weights() -> None:
    field = Noisy(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Tanh()), "scalar").as_stratonovich()
    p = field.init()
    names = tuple(p)

    def drift(y: Tensor, *values: Tensor) -> Tensor:
        return field(0.0, y, dict(zip(names, values)))

    inputs = [v.detach().requires_grad_() for v in (torch.randn(3, 2), *p.values())]
    assert torch.autograd.gradcheck(drift, inputs)


def test_the_field_is_public_and_shows_what_it_is() -> None:
    assert on.fields.Noisy is Noisy
    assert "noise='general', interpretation='ito', dim=2" in repr(Noisy(linear, matrix, "general", dim=2))
