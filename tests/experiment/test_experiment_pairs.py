"""The matrix of integrators and nets: what is marked runs, what is not marked is refused with the sentence shown."""

from __future__ import annotations

import pytest
import torch

import odenet as on
from nets_examples import example
from odenet.errors import BadInput, Incompatible
from odenet.experiment import pairs
from odenet.experiment.run import ALL, fitting, schemes

# one net of every kind, by what its field offers
KINDS = {"resnet": "", "hamiltonian_cnn": "separable", "second_order": "second-order", "imexnet": "split"}


@pytest.mark.parametrize("name", KINDS)
def test_a_marked_pair_runs_and_another_is_refused_with_the_sentence(name: str) -> None:
    words, x = example(name)
    net = on.nets.get(name)(**words).eval()
    answers = pairs.admits(name)
    assert set(answers) == {i for i in on.integrators.names() if ":" not in i}
    for integrator, why in answers.items():
        if why:
            with pytest.raises((Incompatible, BadInput)) as told:
                net.with_integrator(integrator)
            assert str(told.value).split(";")[0] == why.split(";")[0]
        elif not on.integrators.get(integrator).implicit:
            twin = net.with_integrator(integrator, next(net.flows()).steps)
            if any(flow.adaptive for flow in twin.flows()):
                continue  # of variable order: it has no fixed steps
            with torch.no_grad():
                out = twin(x)
            assert out.shape == net(x).shape and bool(out.isfinite().all())


def test_the_matrix_says_what_a_field_must_offer() -> None:
    for integrator in ("verlet", "imex_euler", "leapfrog", "etdrk4", "rk4", "euler_maruyama"):
        needs = on.integrators.get(integrator).needs
        for name, offer in KINDS.items():
            lifted = offer == "second-order" and needs <= {"separable"}  # (y, v)' = (v, f) is separable
            fits = not needs or lifted or {n.replace("_", "-") for n in needs} == {offer}
            assert (pairs.admits(name)[integrator] == "") == fits, (integrator, name)


def test_every_net_with_flows_stands_in_one_column_and_every_integrator_in_one_row() -> None:
    cells, legend = pairs.table()
    named = [n for line in legend for n in line.split(": ")[1].split(", ")]
    own = [n for n in on.nets.names() if pairs.admits(n)]
    assert sorted(named) == own and {"resnet", "parabolic_cnn", "hamiltonian"} <= set(own) and "mlp" not in own
    schemes_named = [i for row in cells[1:] for i in row[-1].split(", ")]
    assert sorted(schemes_named) == sorted(i for i in on.integrators.names() if ":" not in i)
    assert all(line in pairs.text().replace("\n   ", " ") for line in legend)


def test_all_means_every_net_that_takes_the_data_and_every_explicit_integrator_that_admits_it() -> None:
    digits, circles = fitting(on.data.load("digits")), fitting(on.data.load("circles"))
    assert {"resnet", "parabolic_cnn", "mlp", "cnn"} <= set(digits) and "parabolic_cnn" not in circles
    assert not {"lstm", "cornn", "tree_net"} & set(digits)
    found = schemes("hamiltonian", ALL)
    assert found[0] == "verlet" and {"yoshida4", "rk4", "ab3"} <= set(found)
    assert not any(on.integrators.get(i).implicit or on.integrators.get(i).adaptive for i in found)
    assert "imex_euler" not in found and {"resnet", "resnet20"} <= set(digits) and "resnet32" not in digits
    assert schemes("mlp", ALL) == ("-",) and schemes("leapfrog", ALL) == ("leapfrog",)
