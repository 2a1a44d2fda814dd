"""Twelve problems whose solution ceases to exist inside the interval: no method may call its result a success."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...types import State, Time
from .problem import BlowUp, parts


def _square(t: Time, y: State) -> State:
    return y * y


def _minus_square(t: Time, y: State) -> State:
    return -y * y


def _tangent(t: Time, y: State) -> State:
    return 1 + y * y


def _cube(t: Time, y: State) -> State:
    return y**3


def _exponential(t: Time, y: State) -> State:
    return torch.exp(y)


def _riccati(t: Time, y: State) -> State:
    return y * y + t


def _square_root(t: Time, y: State) -> State:
    return -0.5 / y


def _falling_root(t: Time, y: State) -> State:
    return -1 - torch.sqrt(y)


def _logarithm(t: Time, y: State) -> State:
    return torch.log(y)


def _predator(t: Time, y: State) -> State:
    prey, predator = parts(y)
    return torch.cat((prey * (prey - predator), predator * (0.5 * prey - 1)), -1)


def _weierstrass(t: Time, y: State) -> State:
    q, v = parts(y)
    return torch.cat((v, 6 * q * q), -1)


def _collision(t: Time, y: State) -> State:
    q, v = y.chunk(2, -1)
    r: Tensor = (q * q).sum(-1, keepdim=True)
    return torch.cat((v, -q / r**1.5), -1)


BLOW_UPS: dict[str, BlowUp] = {b.name: b for b in (
    BlowUp(name="square", f=_square, y0=(1.0,), t1=2.0, ends=1.0, doc="y' = y^2: y = 1/(1 - t)"),
    BlowUp(name="backward", f=_minus_square, y0=(1.0,), t1=-2.0, ends=-1.0,
           doc="y' = -y^2 back in time: y = 1/(1 + t)"),
    BlowUp(name="tangent", f=_tangent, y0=(0.0,), t1=3.0, ends=math.pi / 2, doc="y' = 1 + y^2: y = tan t"),
    BlowUp(name="cube", f=_cube, y0=(1.0,), t1=1.0, ends=0.5, doc="y' = y^3: y = 1/sqrt(1 - 2 t)"),
    BlowUp(name="exponential", f=_exponential, y0=(0.0,), t1=2.0, ends=1.0, doc="y' = exp(y): y = -log(1 - t)"),
    BlowUp(name="riccati", f=_riccati, y0=(1.0,), t1=2.0, ends=0.930564508526055716,
           doc="y' = y^2 + t: y = -u'/u with u'' = -t u, pole at the first zero of this combination of Airy functions"),
    BlowUp(name="weierstrass", f=_weierstrass, y0=(1.0, 2.0), t1=2.0, ends=1.0,
           doc="y'' = 6 y^2: y = 1/(1 - t)^2, a double pole beyond which the formula goes on"),
    BlowUp(name="predator", f=_predator, y0=(2.0, 0.5), t1=2.0, ends=0.58446901024965,
           doc="prey x' = x (x - y) that grows faster than its predator y' = y (x/2 - 1) can follow"),
    BlowUp(name="square_root", f=_square_root, y0=(1.0,), t1=2.0, ends=1.0, kind="boundary",
           doc="y' = -1/(2 y): y = sqrt(1 - t) reaches 0 with infinite slope; steps may jump over it to y < 0"),
    BlowUp(name="falling_root", f=_falling_root, y0=(1.0,), t1=1.0, ends=2 * (1 - math.log(2)), kind="boundary",
           doc="y' = -1 - sqrt(y) reaches y = 0, where f has no Lipschitz constant and beyond which it is not real"),
    BlowUp(name="logarithm", f=_logarithm, y0=(0.5,), t1=1.0, ends=0.378671043061087974, kind="boundary",
           doc="y' = log y reaches 0 with infinite slope, after -li(1/2); beyond it f is not real"),
    BlowUp(name="collision", f=_collision, y0=(1.0, 0.0, 0.0, 0.0), t1=2.0, ends=math.pi / math.sqrt(8),
           kind="boundary",
           doc="two bodies falling straight onto each other, q'' = -q/|q|^3: infinite speed at q = 0"),
)}  # fmt: skip
