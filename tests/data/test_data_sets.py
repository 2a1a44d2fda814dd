"""Every data set: a seeded, stratified, disjoint split; and each formula against its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from odenet import data
from odenet.data import Dataset
from odenet.data.toy import PEAKS_RANGE, peaks_height
from odenet.errors import BadInput, UnknownName

EVERY = data.names()


def parts(d: Dataset):
    return ((d.x, d.y), (d.x_val, d.y_val), (d.x_test, d.y_test))


def whole(d: Dataset):
    return torch.cat([d.x, d.x_val, d.x_test]).double(), torch.cat([d.y, d.y_val, d.y_test])


@pytest.mark.parametrize("name", EVERY)
def test_parts_have_sixty_twenty_twenty_per_cent_and_share_no_sample(name):
    d = data.load(name)
    sizes = np.array([len(x) for x, _ in parts(d)])
    assert np.all(np.abs(sizes - sizes.sum() * np.array([0.6, 0.2, 0.2])) < 2)
    x, _ = whole(d)
    rows = {r.numpy().tobytes() for r in x}
    repeated = 0 if "digits" not in name else len(x) - len(np.unique(load_digits().data, axis=0))
    assert len(rows) == len(x) - repeated


@pytest.mark.parametrize("name", EVERY)
def test_inputs_are_float32_labels_int64_and_widths_match(name):
    d = data.load(name)
    for x, y in parts(d):
        assert x.dtype == torch.float32 and x.shape[-1] == d.dim_in and bool(torch.isfinite(x).all())
        assert y.dtype == (torch.int64 if d.classes else torch.float32)
    assert d.dim_out == (d.classes or d.y.shape[-1])
    if d.image:
        assert math.prod(d.image) == d.dim_in
    assert name in repr(d) and len(repr(d)) < 200


@pytest.mark.parametrize("name", EVERY)
def test_a_seed_fixes_everything_and_leaves_the_global_random_state_alone(name):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    a, b, other = data.load(name, seed=3), data.load(name, seed=3), data.load(name, seed=4)
    assert torch.equal(a.x, b.x) and torch.equal(a.y_test, b.y_test)
    assert not torch.equal(a.x, other.x)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize("name", [n for n in EVERY if data.load(n).classes and n not in ("copy", "qtips")])
def test_classes_are_equally_frequent_in_every_part(name):
    d = data.load(name)
    total = torch.bincount(whole(d)[1], minlength=d.classes)
    for _, y in parts(d):
        share = total * len(y) / total.sum()
        assert float((torch.bincount(y, minlength=d.classes) - share).abs().max()) <= 1.5


def test_to_changes_inputs_and_keeps_labels():
    d = data.load("moons").to(torch.float64)
    assert d.x.dtype == d.x_test.dtype == torch.float64 and d.y.dtype == torch.int64
    assert data.load("adding", n=20).to(torch.float64).y.dtype == torch.float64


def test_a_wrong_name_option_or_size_is_one_clear_sentence():
    with pytest.raises(UnknownName, match="did you mean 'spirals'"):
        data.load("spiral")
    with pytest.raises(BadInput, match="'moons' has no option 'noize'; it has: n, noise"):
        data.load("moons", noize=0.1)
    with pytest.raises(BadInput, match="needs n >= 25 samples"):
        data.load("peaks", n=10)
    with pytest.raises(BadInput, match="cannot be negative"):
        data.load("moons", noise=-1.0)
    with pytest.raises(BadInput, match="dim=1 or dim=2"):
        data.load("donut", dim=3)
    with pytest.raises(BadInput, match="arms >= 2"):
        data.load("spirals", arms=1)
    with pytest.raises(BadInput, match="length >= 2"):
        data.load("adding", length=1)
    with pytest.raises(BadInput, match="symbols >= 2"):
        data.load("copy", symbols=1)


def test_a_data_set_with_unequal_lengths_or_labels_out_of_range_is_refused():
    x, y = torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(BadInput, match="3 inputs but 2 targets"):
        Dataset("mine", x, y[:2], x, y, x, y, classes=2)
    with pytest.raises(BadInput, match=r"outside 0\.\.1"):
        Dataset("mine", x, y + 2, x, y, x, y, classes=2)


def test_a_registered_data_set_is_loaded_by_name():
    data.register(
        "constant_for_test",
        lambda seed=0, n=10: data.split("c", np.ones((n, 1)), np.ones((n, 1)), classes=None, seed=seed),
    )
    try:
        assert data.load("constant_for_test", n=20).x.shape == (12, 1)
    finally:
        del data.dataset.DATA._entries["constant_for_test"]


def test_digits_are_those_of_scikit_learn_divided_by_sixteen():
    x, y = whole(data.load("digits"))
    expected, labels = load_digits(return_X_y=True)
    ours = np.concatenate([x.numpy() * 16, y[:, None].numpy()], axis=1)
    theirs = np.concatenate([expected, labels[:, None]], axis=1)
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


def test_noise_is_normal_with_the_stated_standard_deviation():
    clean, noisy = (whole(data.load("squares", n=4000, noise=s))[0] for s in (0.0, 0.3))
    assert float((noisy - clean).std()) == pytest.approx(0.3, rel=0.03)


def test_moons_lie_on_two_half_circles():
    x, y = whole(data.load("moons", noise=0.0))
    centre = torch.stack([y.double(), 0.5 * y], dim=1)
    torch.testing.assert_close((x - centre).norm(dim=1), torch.ones(len(x)).double(), rtol=0, atol=1e-6)
    assert bool(((x - centre)[:, 1] * (1 - 2 * y) >= -1e-6).all())


def test_circles_have_radii_one_and_factor():
    x, y = whole(data.load("circles", noise=0.0, factor=0.3))
    torch.testing.assert_close(x.norm(dim=1), 1 - 0.7 * y.double(), rtol=0, atol=1e-6)


def test_swiss_roll_is_two_archimedean_spirals_a_fifth_apart():
    x, y = whole(data.load("swiss_roll"))
    s = x.norm(dim=1) - 0.2 * y
    spiral = (s + 0.2 * y)[:, None] * torch.stack([(4 * math.pi * s).cos(), (4 * math.pi * s).sin()], dim=1)
    torch.testing.assert_close(x, spiral, rtol=0, atol=3e-6)
    torch.testing.assert_close(s[y == 0].sort().values, torch.linspace(0, 1, 257).double(), rtol=0, atol=1e-6)


def test_ellipses_split_at_radius_one_of_the_stretched_plane():
    x, y = whole(data.load("ellipses"))
    r = (x / torch.tensor([1.0, 0.4])).norm(dim=1)
    assert torch.equal((r > 1).long(), y) and float(r.max()) <= 2


def test_peaks_range_is_that_of_a_fine_grid_and_matlabs_first_entries():
    """peaks(49) in MATLAB runs from -6.5466 to 8.0752."""
    fine = np.linspace(-3, 3, 1201)
    height = peaks_height(*np.meshgrid(fine, fine))
    assert height.min() == pytest.approx(PEAKS_RANGE[0], abs=1e-4) and height.min() >= PEAKS_RANGE[0]
    assert height.max() == pytest.approx(PEAKS_RANGE[1], abs=1e-4) and height.max() <= PEAKS_RANGE[1]
    coarse = np.linspace(-3, 3, 49)
    height = peaks_height(*np.meshgrid(coarse, coarse))
    assert (round(height.min(), 4), round(height.max(), 4)) == (-6.5466, 8.0752)


def test_peaks_classes_are_five_bands_of_equal_height():
    x, y = whole(data.load("peaks", n=500))
    low, high = PEAKS_RANGE
    band = np.digitize(peaks_height(*x.numpy().T), [low + k * (high - low) / 5 for k in range(1, 5)])
    assert np.array_equal(band, y.numpy())
    assert torch.bincount(y).tolist() == [100] * 5


def test_donut_fills_a_disc_and_a_ring_evenly_in_one_and_two_dimensions():
    for dim in (1, 2):
        x, y = whole(data.load("donut", n=4000, dim=dim))
        r = x.norm(dim=1)
        assert x.shape[1] == dim
        assert float(r[y == 0].max()) < 0.5 and 0.7 < float(r[y == 1].min()) < float(r.max()) < 1
        assert float((r[y == 0] < 0.25).double().mean()) == pytest.approx(0.5**dim, abs=0.03)


def test_squares_are_an_exclusive_or_with_a_gap():
    x, y = whole(data.load("squares"))
    assert torch.equal((x[:, 0] * x[:, 1] < 0).long(), y)
    assert float(x.abs().min()) >= 0.1 and float(x.abs().max()) <= 1


def test_spirals_unwind_to_the_phase_of_their_arm():
    x, y = whole(data.load("spirals", n=999, noise=0.0, arms=3, turns=2.0))
    phase = torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi) - 2.0 * x.norm(dim=1) - y / 3
    torch.testing.assert_close(phase, phase.round(), rtol=0, atol=1e-5)
