"""Augmentations against numpy and exact quarter turns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from odenet.errors import BadInput, UnknownName
from odenet.train.augment import AUGMENTATIONS, augmented, rotate, rotated, shift

IMAGE = (2, 5, 4)


def batch(n=50, image=IMAGE, seed=0):
    return torch.rand(n, *image, generator=torch.Generator().manual_seed(seed))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_flat_and_shaped_batches_give_the_same_images_fixed_by_the_generator(name):
    x, f = batch(), AUGMENTATIONS[name]
    state = torch.get_rng_state()
    y = f(x, IMAGE, generator(1))
    assert y.shape == x.shape and y.dtype == x.dtype
    assert torch.equal(y.flatten(1), f(x.flatten(1), IMAGE, generator(1)))
    assert not torch.equal(y, f(x, IMAGE, generator(2)))
    assert torch.equal(state, torch.get_rng_state())
    assert f(x.double(), IMAGE, generator(1)).dtype == torch.float64


def test_every_shift_is_one_of_the_numpy_shifts_and_all_of_them_occur():
    x = batch(200)
    y = shift(x, IMAGE, generator(), most=1)
    seen = set()
    for a, b in zip(x.numpy(), y.numpy()):
        padded = np.pad(a, ((0, 0), (1, 1), (1, 1)))
        matches = [(i, j) for i in range(3) for j in range(3) if np.array_equal(padded[:, i : i + 5, j : j + 4], b)]
        assert len(matches) == 1
        seen.add(matches[0])
    assert len(seen) == 9


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_a_quarter_turn_of_a_square_image_is_numpys(quarters):
    x = batch(3, (2, 6, 6))
    y = rotated(x, (2, 6, 6), torch.full((3,), quarters * math.pi / 2))
    expected = np.rot90(x.numpy(), quarters, axes=(2, 3)).copy()
    torch.testing.assert_close(y, torch.from_numpy(expected), rtol=0, atol=2e-6)


def test_a_turn_of_an_oblong_image_keeps_distances():
    """A dot 2 pixels right of the centre goes 2 pixels up, whatever the aspect ratio."""
    x = torch.zeros(1, 1, 5, 9)
    x[0, 0, 2, 6] = 1.0
    y = rotated(x, (1, 5, 9), torch.tensor([math.pi / 2]))[0, 0]
    expected = torch.zeros(5, 9)
    expected[0, 4] = 1.0
    torch.testing.assert_close(y, expected, rtol=0, atol=2e-6)


def test_rotate_stays_within_its_degrees():
    x = torch.zeros(400, 1, 41, 41)
    x[:, :, 20, 40] = 1.0
    y = rotate(x, (1, 41, 41), generator(), degrees=20.0)[:, 0]
    total = y.sum(dim=(1, 2))
    rows = (y.sum(dim=2) * (20 - torch.arange(41.0))).sum(dim=1) / total
    columns = (y.sum(dim=1) * (torch.arange(41.0) - 20)).sum(dim=1) / total
    angle = torch.rad2deg(torch.atan2(rows, columns))[total > 0.5]
    assert angle.abs().max() < 21 and angle.max() > 17 and angle.min() < -17


def test_noise_has_the_stated_standard_deviation():
    x = torch.zeros(1000, 40, dtype=torch.float64)
    y = AUGMENTATIONS["noise"](x, IMAGE, generator(), std=0.2)
    assert y.std().item() == pytest.approx(0.2, rel=0.02) and abs(y.mean().item()) < 0.005


def test_augmented_applies_the_names_in_order():
    x = batch()
    g = generator()
    expected = AUGMENTATIONS["noise"](shift(x, IMAGE, g), IMAGE, g)
    assert torch.equal(augmented(x, ("shift", "noise"), IMAGE, generator()), expected)
    with pytest.raises(UnknownName, match="known: noise, rotate, shift"):
        augmented(x, ("flip",), IMAGE)
    with pytest.raises(BadInput, match="does not hold images"):
        shift(x, (1, 5, 4))
