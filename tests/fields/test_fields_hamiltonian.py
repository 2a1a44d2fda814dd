"""Hamiltonian fields: formulas, energies that the exact flow keeps, J skew, and what each form offers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import odenet as on
from odenet.errors import BadInput
from odenet.fields import Conv, Dense, FirstOrder, HamiltonianJ, SecondOrder, SeparableHamiltonian, activations

pytestmark = pytest.mark.usefixtures("double")

MAKERS = {
    "two layers": lambda **o: SeparableHamiltonian(6, **o),
    "wide": lambda **o: SeparableHamiltonian(6, hidden=8, **o),
    "h1": lambda **o: HamiltonianJ(6, **o),
    "h1 full J": lambda **o: HamiltonianJ(6, J="full", **o),
    "h2": lambda **o: HamiltonianJ(6, form="h2", **o),
    "second order": lambda **o: FirstOrder(SecondOrder(3, hidden=5, **o)),
}
SMOOTH = [n for n in activations.names() if activations.get(n).smooth]


def weights(field: on.Field) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(2)
    return {k: v + 0.4 * torch.randn(v.shape, generator=g) for k, v in field.init(g).items()}


def test_the_two_layer_form_is_the_published_one() -> None:
    field = SeparableHamiltonian(6, hidden=5)
    p, y = weights(field), torch.randn(4, 6)
    q, m = y[:, :3], y[:, 3:]
    by_hand = torch.cat(
        (torch.tanh(m @ p["K1"].T + p["b1"]) @ p["K1"], -torch.tanh(q @ p["K2"].T + p["b2"]) @ p["K2"]), 1
    )
    torch.testing.assert_close(field(0.0, y, p), by_hand, rtol=1e-13, atol=1e-14)


def test_the_one_layer_form_is_the_published_one() -> None:
    field = SeparableHamiltonian(6, layers=1, activation="sigmoid")
    p, y = weights(field), torch.randn(4, 6)
    q, m = y[:, :3], y[:, 3:]
    by_hand = torch.cat((torch.sigmoid(m @ p["K"].T + p["b"]), -torch.sigmoid(q @ p["K"] + p["b"])), 1)
    torch.testing.assert_close(field(0.0, y, p), by_hand, rtol=1e-13, atol=1e-14)
    assert sorted(p) == ["K", "b"] and "energy" not in field.offers


@pytest.mark.parametrize("layers", [1, 2])
def test_on_images_the_halves_are_halves_of_the_channels(layers: int) -> None:
    field = SeparableHamiltonian(4, layers=layers, map="conv2d")
    p, y = weights(field), torch.randn(2, 4, 5, 3)
    q, m = y[:, :2], y[:, 2:]
    conv = lambda x, K, b: torch.tanh(F.conv2d(x, K, padding=1) + b[:, None, None])  # noqa: E731
    if layers == 2:
        up = F.conv_transpose2d(conv(m, p["K1"], p["b1"]), p["K1"], padding=1)
        down = -F.conv_transpose2d(conv(q, p["K2"], p["b2"]), p["K2"], padding=1)
    else:
        up = conv(m, p["K"], p["b"])
        down = -torch.tanh(F.conv_transpose2d(q, p["K"], padding=1) + p["b"][:, None, None])
    torch.testing.assert_close(field(0.0, y, p), torch.cat((up, down), 1), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("J", ["canonical", "full"])
def test_h1_is_j_times_k_transposed_s_with_a_skew_j(J: str) -> None:
    field = HamiltonianJ(6, J=J)  # type: ignore[arg-type]
    p, y = weights(field), torch.randn(4, 6)
    matrix = field.rotate(torch.eye(6)).T  # column j is J e_j
    zero, one = torch.zeros(3, 3), torch.eye(3)
    published = torch.cat((torch.cat((zero, one), 1), torch.cat((-one, zero), 1)))
    if J == "full":
        published = torch.ones(6, 6).triu(1) - torch.ones(6, 6).tril(-1)
    torch.testing.assert_close(matrix, published, rtol=0.0, atol=1e-15)
    assert torch.equal(published, -published.T)
    by_hand = (torch.tanh(y @ p["K"].T + p["b"]) @ p["K"]) @ published.T
    torch.testing.assert_close(field(0.0, y, p), by_hand, rtol=1e-13, atol=1e-14)


def test_the_jacobian_of_h1_is_j_k_transposed_d_k_so_its_spectrum_is_imaginary() -> None:
    field = HamiltonianJ(6)
    p, y = weights(field), torch.randn(6)
    A = torch.autograd.functional.jacobian(lambda x: field(0.0, x[None], p)[0], y)
    D = torch.diag(1 - torch.tanh(y @ p["K"].T + p["b"]) ** 2)
    J = field.rotate(torch.eye(6)).T
    torch.testing.assert_close(A, J @ p["K"].T @ D @ p["K"], rtol=1e-12, atol=1e-13)
    assert (
        float(torch.linalg.eigvals(A).real.abs().max()) < 1e-10 < 1e-2 < float(torch.linalg.eigvals(A).imag.abs().max())
    )


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("activation", SMOOTH)
def test_the_exact_flow_keeps_the_energy_because_its_gradient_is_orthogonal_to_the_field(
    kind: str, activation: str
) -> None:
    field = MAKERS[kind](activation=activation)
    if "energy" not in field.offers:
        assert activations.get(activation).primitive is None or activations.get(activation).slope[0] < 0
        return
    p, y = weights(field), torch.randn(5, 6, requires_grad=True)
    H = field.energy(y, p)
    assert H.shape == (5,)
    (grad,) = torch.autograd.grad(H.sum(), y)
    f = field(0.0, y, p)
    f = f.detach()
    assert float((grad * f).sum(1).abs().max()) < 1e-12 * float((grad.norm(dim=1) * f.norm(dim=1)).max())
    assert float(f.norm()) > 0.1


@pytest.mark.parametrize("kind", MAKERS)
def test_a_hamiltonian_field_is_j_times_the_gradient_of_its_energy(kind: str) -> None:
    field = MAKERS[kind]()
    p, y = weights(field), torch.randn(5, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(field.energy(y, p).sum(), y)
    rotate = field.rotate if isinstance(field, HamiltonianJ) else lambda g: torch.cat((g[:, 3:], -g[:, :3]), 1)
    torch.testing.assert_close(field(0.0, y, p), rotate(grad), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", ["two layers", "h2", "second order"])
def test_the_energy_drift_of_yoshida4_falls_with_the_fourth_power_of_h(kind: str) -> None:
    field = MAKERS[kind]()
    y = torch.randn(3, 6)
    drifts = []
    for steps in (100, 200):
        flow = on.Flow(field, "yoshida4", depth="shared", span=(0.0, 10.0), steps=steps, seed=1)
        p = {k: v[0].detach() for k, v in flow.weights.items()}
        H = torch.stack([field.energy(s, p) for s in flow.trajectory(y).detach()])
        drifts.append(float((H - H[0]).abs().max()))
    assert sorted(p) == sorted(field.init()) and 0.0 < drifts[1] < 1e-5
    assert 12.0 < drifts[0] / drifts[1] < 20.0


def test_h2_is_h1_with_a_block_diagonal_weight() -> None:
    h1, h2 = HamiltonianJ(6), HamiltonianJ(6, form="h2")
    p, y = weights(h2), torch.randn(4, 6)
    whole = {"K": torch.block_diag(p["K_q"], p["K_p"]), "b": torch.cat((p["b_q"], p["b_p"]))}
    torch.testing.assert_close(h2(0.0, y, p), h1(0.0, y, whole), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(h2.energy(y, p), h1.energy(y, whole), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("kind", ["two layers", "h2"])
def test_one_step_of_symplectic_euler_is_a_symplectic_map_and_one_of_euler_is_not(kind: str) -> None:
    field, y = MAKERS[kind](), torch.randn(6)
    J = torch.block_diag(torch.zeros(3, 3), torch.zeros(3, 3))
    J[:3, 3:], J[3:, :3] = torch.eye(3), -torch.eye(3)
    defect = {}
    for name in ("symplectic_euler", "euler"):
        flow = on.Flow(field, name, steps=4, span=(0.0, 2.0), seed=3)
        M = torch.autograd.functional.jacobian(lambda x, flow=flow: flow(x[None])[0], y)
        defect[name] = float((M.T @ J @ M - J).norm())
    assert defect["symplectic_euler"] < 1e-13 < 1e-2 < defect["euler"]


WRONG = [
    (lambda: SeparableHamiltonian(5), "width 5; .* the width is even"),
    (lambda: SeparableHamiltonian(0), "width 0"),
    (lambda: SeparableHamiltonian(6, layers=3), "layers=3; the published forms have one or two"),
    (lambda: SeparableHamiltonian(6, layers=1, hidden=4), "hidden=4 needs a second layer"),
    (lambda: SeparableHamiltonian(6, layers=1, norm="batch"), "no normalised form"),
    (lambda: SeparableHamiltonian(6, layers=1, map=Dense(3, 4)), "from 3 to 4 features; here it goes from 3 to 3"),
    (lambda: SeparableHamiltonian(6, map=Conv(6, 6)), "from 6 to 6 features; here it goes from 3"),
    (lambda: HamiltonianJ(7), "the width is even"),
    (lambda: HamiltonianJ(6, form="h3"), "form='h3'"),
    (lambda: HamiltonianJ(6, form="h2", J="full"), "or form='h2'"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "sentence"), WRONG)
def test_a_hamiltonian_that_cannot_be_is_refused_with_a_sentence(build: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        build()  # type: ignore[operator]


def test_a_state_of_odd_width_is_not_split() -> None:
    with pytest.raises(BadInput, match="the state has width 5"):
        SeparableHamiltonian(6)(0.0, torch.randn(2, 5), SeparableHamiltonian(6).init())
