"""Networks: the zoo of ODE nets, each one line over Flow, and the baselines they are compared with."""

from __future__ import annotations

from . import base, baselines, zoo
from .base import NETS, net
from .baselines import attention, cnn, gru, lstm, mlp, perceptron, perceptron_rule, rnn, tree_net
from .storage import load, save
from .transfer import Pad
from .zoo import (
    antisymmetric,
    hamiltonian,
    hamiltonian_h2,
    hamiltonian_j,
    hamiltonian_one_layer,
    leapfrog,
    lm_resnet,
    midpoint,
    momentum,
    parabolic,
    resnet,
    second_order,
)

names, get, register = NETS.names, NETS.get, NETS.register

__all__ = [
    "NETS",
    "Pad",
    "antisymmetric",
    "attention",
    "base",
    "baselines",
    "cnn",
    "get",
    "gru",
    "hamiltonian",
    "hamiltonian_h2",
    "hamiltonian_j",
    "hamiltonian_one_layer",
    "leapfrog",
    "lm_resnet",
    "load",
    "lstm",
    "midpoint",
    "mlp",
    "momentum",
    "names",
    "net",
    "parabolic",
    "perceptron",
    "perceptron_rule",
    "register",
    "resnet",
    "rnn",
    "save",
    "second_order",
    "tree_net",
    "zoo",
]
