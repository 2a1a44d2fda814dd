"""Nets of another depth, width and image size: the same function, the same differential operators, and files."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import odenet as on
from nets_examples import example
from odenet.errors import BadInput, Incompatible
from odenet.flow.multilevel import prolong, restrict
from odenet.nets.multilevel import rescale_stencils, stencil_map, widen

FLOWING = [n for n in on.nets.names() if on.nets.get(n).kind == "ode" and n[-2:] not in ("44", "56", "10", "32")]


def flows(net: nn.Module) -> list[on.Flow]:
    return [m for m in net.modules() if isinstance(m, on.Flow)]


# ---- depth, for every net


@pytest.mark.parametrize("name", FLOWING)
def test_a_net_of_the_zoo_doubles_comes_back_from_a_file_and_halves_to_itself(name: str, tmp_path: Path) -> None:
    arguments, x = example(name)
    net = on.nets.get(name)(**arguments, seed=3).eval()
    if not flows(net) or any(flow.controls for flow in flows(net)):
        with pytest.raises((BadInput, Incompatible), match=r"holds no Flow|which is data"):
            prolong(net)
        return
    before = copy.deepcopy(net.state_dict())
    deep = prolong(net)
    assert [f.steps for f in flows(deep)] == [2 * f.steps for f in flows(net)]
    assert [f.span for f in flows(deep)] == [f.span for f in flows(net)]
    assert type(deep) is type(net) and not deep.training and deep.spec["doublings"] == 1
    back = on.load(on.save(deep, tmp_path / "net.safetensors")).eval()
    with torch.no_grad():
        assert torch.equal(back(x), deep(x))
        torch.testing.assert_close(restrict(deep)(x), net(x))
        for p in deep.parameters():
            p.add_(1.0)
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert sum(p.numel() for p in back.parameters()) == sum(p.numel() for p in deep.parameters())


# ---- width

DENSE: list[tuple[str, dict[str, Any]]] = [
    ("resnet", {}),
    ("resnet", {"layers": 2, "norm": "batch"}),
    ("resnet", {"norm": "tv"}),
    ("resnet", {"depth": "spline", "activation": "sigmoid", "opening": "pad"}),
    ("antisymmetric", {"gamma": 0.1}),
    ("midpoint", {}),
    ("hamiltonian", {}),
    ("hamiltonian", {"opening": "pad", "width": 12}),
    ("hamiltonian", {"hidden": 4}),
    ("hamiltonian_one_layer", {}),
    ("hamiltonian_h2", {}),
    ("hamiltonian_j", {}),
    ("hamiltonian_j", {"J": "full"}),
    ("parabolic", {}),
    ("parabolic", {"hidden": 4, "constraint": "spectral_cap"}),
    ("second_order", {}),
    ("leapfrog", {}),
    ("lm_resnet", {}),
    ("momentum", {}),
]


def double(name: str, options: dict[str, Any]) -> nn.Module:
    net = on.nets.get(name)(**{"dim_in": 5, "dim_out": 3, "width": 6, "steps": 3, **options}, seed=2).double().eval()
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return net


@pytest.mark.parametrize("start", ["drawn", "zero"])
@pytest.mark.parametrize(("name", "options"), DENSE, ids=lambda v: str(v) if v else "")
def test_a_wider_net_computes_the_same(name: str, options: dict[str, Any], start: str, tmp_path: Path) -> None:
    net = double(name, options)
    wide, x = widen(net, 16, start), torch.randn(20, 5, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(wide(x), net(x), rtol=1e-13, atol=1e-13)
    assert wide.parts[1].field.dim == 16 and wide.spec["args"]["width"] == 16 and net.parts[1].field.dim != 16
    path = on.save(wide, tmp_path / "net.safetensors")
    assert torch.equal(on.load(path).eval()(x), wide(x))


@pytest.mark.parametrize(("name", "halves"), [("resnet", False), ("parabolic", False), ("hamiltonian", True)])
@pytest.mark.parametrize("start", ["drawn", "zero"])
@torch.no_grad()
def test_the_old_coordinates_of_a_wider_state_move_as_before(name: str, halves: bool, start: str) -> None:
    net = double(name, {})
    wide, x = widen(net, 10, start), torch.randn(7, 5, dtype=torch.float64)
    old = net.parts[1].trajectory(net.parts[0](x))
    new = wide.parts[1].trajectory(wide.parts[0](x))
    kept = [0, 1, 2, 5, 6, 7] if halves else [0, 1, 2, 3, 4, 5]
    rest = [i for i in range(10) if i not in kept]
    torch.testing.assert_close(new[..., kept], old, rtol=1e-14, atol=1e-14)
    assert (float(new[..., rest].abs().max()) == 0.0) == (start == "zero")


@pytest.mark.parametrize(
    ("name", "weight"), [("resnet", "K"), ("parabolic", "K"), ("antisymmetric", "K"), ("hamiltonian", "K1")]
)
@pytest.mark.parametrize("start", ["drawn", "zero"])
def test_new_coordinates_have_weights_among_themselves_alone(name: str, weight: str, start: str) -> None:
    K = widen(double(name, {}), 12, start).parts[1].weights[weight].detach()
    old = 3 if name == "hamiltonian" else 6
    assert float(K[:, :old, old:].abs().max()) == 0.0 and float(K[:, old:, :old].abs().max()) == 0.0
    assert bool((K[:, old:, old:] != 0).all()) == (start == "drawn")


@pytest.mark.parametrize(("start", "reached"), [("drawn", True), ("zero", False)])
def test_drawn_coordinates_are_reached_by_training_and_zero_ones_are_not(start: str, reached: bool) -> None:
    wide, x = widen(double("resnet", {}), 10, start), torch.randn(20, 5, dtype=torch.float64)
    wide(x).square().sum().backward()
    assert bool(wide.parts[2].weight.grad[:, 6:].abs().max() > 0) == reached
    assert bool(wide.parts[2].weight.grad[:, :6].abs().max() > 0)


@pytest.mark.parametrize(
    ("name", "widths", "start"),
    [
        ("parabolic_cnn", [6, 10], "drawn"),
        ("hamiltonian_cnn", [8, 12], "drawn"),
        ("second_order_cnn", [5, 8], "drawn"),
        ("resnet20", [6, 10], "zero"),
        ("imexnet", [6, 10], "drawn"),
    ],
)
@torch.no_grad()
def test_an_image_net_with_more_channels_computes_the_same(name: str, widths: list[int], start: str) -> None:
    arguments, x = example(name)
    net = on.nets.get(name)(**arguments, seed=1).double()
    net(torch.randn(8, 1, 8, 8, dtype=torch.float64))  # moves the running statistics of the openings
    on.calibrate(net, [torch.randn(8, 1, 8, 8, dtype=torch.float64)])
    net.eval()
    wide = widen(net, widths, start)
    torch.testing.assert_close(wide(x.double()), net(x.double()), rtol=1e-12, atol=1e-12)
    assert flows(wide)[0].field.dim == widths[0]


def test_a_prolonged_net_can_be_widened_and_a_widened_one_prolonged(tmp_path: Path) -> None:
    net, x = double("resnet", {}), torch.randn(4, 5, dtype=torch.float64)
    both = widen(prolong(net), 9)
    torch.testing.assert_close(both(x), prolong(widen(net, 9))(x))
    assert torch.equal(on.load(on.save(both, tmp_path / "net.safetensors")).eval()(x), both(x))


@pytest.mark.parametrize(
    ("net", "width", "error", "sentence"),
    [
        (on.nets.resnet(5, 3, width=6), 6, BadInput, "makes it wider"),
        (on.nets.resnet(5, 3, width=6), 4, BadInput, "makes it wider"),
        (on.nets.hamiltonian(5, 3, width=6, opening="pad"), 12, Incompatible, "the other half"),
        (on.nets.stable_ode(5, 3, width=4), 8, Incompatible, "does not stay the same"),
        (on.nets.lstm(5, 3, width=6), 12, Incompatible, "only a chain"),
        (on.flow.Chain(nn.Linear(2, 2), on.Flow(on.fields.Free(2))), 4, Incompatible, "only a chain"),
    ],
)
def test_a_net_that_cannot_be_widened_is_told_in_a_sentence(
    net: Any, width: int, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        widen(net, width)
    with pytest.raises(BadInput, match="'drawn' or 'zero'"):
        widen(net, width, "noise")


# ---- stencils


def published(h: float) -> np.ndarray:
    """theta = M(h) beta of Ruthotto & Haber for one row: average, first derivative, minus second derivative."""
    return np.array([[1 / 4, -1 / (2 * h), -1 / h**2], [1 / 2, 0, 2 / h**2], [1 / 4, 1 / (2 * h), -1 / h**2]])


@pytest.mark.parametrize("h", [0.3, 1.0, 7.0])
@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_the_map_of_stencils_is_the_published_one_at_every_pixel_size(h: float, factor: float) -> None:
    wanted = published(factor * h) @ np.linalg.inv(published(h))
    np.testing.assert_allclose(stencil_map(factor).numpy(), wanted, atol=1e-12)
    for value in ("average", "point"):
        back = stencil_map(1 / factor, value) @ stencil_map(factor, value)
        torch.testing.assert_close(back, torch.eye(3, dtype=torch.float64))


class Polynomial:
    """sum c_ij x^i y^j with all its derivatives in closed form."""

    def __init__(self, degree: int, seed: int) -> None:
        self.c = np.random.default_rng(seed).normal(size=(degree + 1, degree + 1))

    def __call__(self, x: np.ndarray, y: np.ndarray, dx: int = 0, dy: int = 0) -> np.ndarray:
        c = np.polynomial.polynomial.polyder(np.polynomial.polynomial.polyder(self.c, dx, axis=0), dy, axis=1)
        return np.polynomial.polynomial.polyval2d(x, y, np.atleast_2d(c))


def applied(stencil: torch.Tensor, u: Polynomial, h: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values of the stencil on pixels of distance h, with the places of their middles (rows are x, columns y)."""
    grid = h * np.arange(-4, 5)
    x, y = np.meshgrid(grid, grid, indexing="ij")
    values = F.conv2d(torch.from_numpy(u(x, y))[None, None], stencil[None, None])[0, 0].numpy()
    return values, x[1:-1, 1:-1], y[1:-1, 1:-1]


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("h", [0.5, 1.0])
def test_on_polynomials_a_rescaled_stencil_is_the_same_differential_operator(factor: float, h: float) -> None:
    rng = np.random.default_rng(3)
    for value, degree in (("point", 2), ("average", 1)):
        beta = rng.normal(size=(3, 3))  # of d^a/dx^a d^b/dy^b, the second derivatives with a minus
        u = Polynomial(degree, 4)
        m = published(h)
        if value == "point":
            m[:, 0] = 0, 1, 0
        stencil = torch.from_numpy(m @ beta @ m.T)
        change = stencil_map(factor, value)
        for theta, size in ((stencil, h), (change @ stencil @ change.mT, factor * h)):
            values, x, y = applied(theta, u, size)
            wanted = sum(beta[a, b] * (-1) ** (a // 2 + b // 2) * u(x, y, a, b) for a in range(3) for b in range(3))
            np.testing.assert_allclose(values, wanted, atol=1e-9)


def test_a_published_derivative_stencil_stays_one_on_polynomials_of_degree_two() -> None:
    u, h = Polynomial(2, 5), 0.5
    for a, b in ((1, 1), (2, 1), (2, 2)):
        beta = np.zeros((3, 3))
        beta[a, b] = 1.0
        stencil = torch.from_numpy(published(h) @ beta @ published(h).T)
        change = stencil_map(2.0)
        values, x, y = applied(change @ stencil @ change.mT, u, 2 * h)
        np.testing.assert_allclose(values, (-1) ** (a // 2 + b // 2) * u(x, y, a, b), atol=1e-10)


@pytest.mark.usefixtures("double")
@torch.no_grad()
def test_a_flow_with_rescaled_stencils_does_the_same_to_an_image_of_twice_the_resolution() -> None:
    def image(size: int, length: float) -> torch.Tensor:
        x = (torch.arange(size) - (size - 1) / 2) / length  # pixels of width 1/length
        return torch.stack([torch.sin(x)[:, None] * torch.cos(2 * x), torch.cos(x)[:, None] + x])[None]

    flow = on.Flow(on.fields.Parabolic(2, map="conv2d", gain=0.5), steps=2, span=(0.0, 0.5), seed=1)
    fine = rescale_stencils(flow, 0.5, "point")
    gaps, naive = [], []
    for length in (8.0, 16.0):
        coarse = flow(image(33, length))[:, :, 8:25, 8:25]  # off the border, whose zeros are another image
        same = fine(image(65, 2 * length))[:, :, 16:49:2, 16:49:2]
        gaps.append(float((same - coarse).abs().max()))
        naive.append(float((flow(image(65, 2 * length))[:, :, 16:49:2, 16:49:2] - coarse).abs().max()))
    assert gaps[0] < naive[0] / 4 and gaps[1] < naive[1] / 4
    assert gaps[0] / gaps[1] > 3.5  # second order and more in the size of a pixel


def test_a_rescaled_net_takes_images_of_the_new_size_and_comes_back_from_a_file(tmp_path: Path) -> None:
    net = on.nets.parabolic_cnn(channels=1, classes=3, size=8, widths=[4, 6], seed=1).eval()
    fine = rescale_stencils(net, 0.5)
    x = torch.randn(3, 1, 16, 16)
    assert fine(x).shape == (3, 3) and fine.spec["args"]["size"] == 16 and net.spec["args"]["size"] == 8
    assert torch.equal(on.load(on.save(fine, tmp_path / "net.safetensors")).eval()(x), fine(x))
    again, x = rescale_stencils(fine, 2), torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(again(x), net(x))
    with pytest.raises(BadInput, match="no whole size"):
        rescale_stencils(net, 3)


@pytest.mark.parametrize(
    ("net", "factor", "error", "sentence"),
    [
        (on.nets.parabolic_cnn(), 0, BadInput, "factor > 0"),
        (on.nets.resnet(5, 3), 2, Incompatible, "no 3x3 stencils"),
    ],
)
def test_stencils_that_cannot_be_rescaled_are_told_in_a_sentence(
    net: nn.Module, factor: float, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        rescale_stencils(net, factor)
    with pytest.raises(BadInput, match="'average' or 'point'"):
        rescale_stencils(net, 2, "mean")
