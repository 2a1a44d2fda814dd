"""Linear maps: exact transposes, norms that are bounds, all against the matrix of the operator."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from odenet.errors import BadInput
from odenet.fields import Conv, Dense, maps

pytestmark = pytest.mark.usefixtures("double")

MAPS = [
    (Dense(5, 3), (7, 5)),
    (Dense(3, 5), (7, 3)),
    (Dense(1, 1), (2, 1)),
    (Conv(2, 3, 3, 1), (4, 2, 9)),
    (Conv(3, 2, 5, 1), (4, 3, 8)),
    (Conv(2, 3, 3, 2), (4, 2, 6, 5)),
    (Conv(2, 2, 5, 2), (4, 2, 4, 7)),
    (Conv(3, 2, 1, 2), (4, 3, 5, 6)),
    (Conv(3, 2, 3, 2), (4, 3, 1, 2)),
]


def matrix(map: maps.LinearMap, K: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The operator on one sample of `shape`, column by column."""
    size = math.prod(shape)
    return map.apply(K, torch.eye(size).reshape(size, *shape)).flatten(1).T


@pytest.mark.parametrize(("map", "shape"), MAPS)
def test_the_transpose_is_exact(map: maps.LinearMap, shape: tuple[int, ...]) -> None:
    K, y = torch.randn(map.shape), torch.randn(shape)
    z = torch.randn_like(map.apply(K, y))
    left, right = (map.apply(K, y) * z).sum(), (y * map.transpose(K, z)).sum()
    assert z.shape[map.axis] == map.rows and map.transpose(K, z).shape == y.shape
    torch.testing.assert_close(left, right, rtol=1e-13, atol=1e-13)
    A = matrix(map, K, shape[1:])
    torch.testing.assert_close(map.transpose(K, z).flatten(1), z.flatten(1) @ A, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("map", "shape"), MAPS)
def test_the_parts_of_a_map_have_the_stated_shapes(map: maps.LinearMap, shape: tuple[int, ...]) -> None:
    K, y = torch.randn(map.shape), torch.randn(shape)
    out = map.apply(K, y)
    shift = (out + map.spread(torch.arange(float(map.rows)))) - out
    assert map.fan_in == K[0].numel()
    for row in range(map.rows):
        torch.testing.assert_close(shift.select(map.axis, row), torch.full_like(shift.select(map.axis, row), row))


def test_a_convolution_is_the_cross_correlation_written_as_loops() -> None:
    map = Conv(2, 3, 3, 2)
    K, y = torch.randn(map.shape), torch.randn(1, 2, 4, 5)
    out = torch.zeros(1, 3, 4, 5)
    for o in range(3):
        for i in range(4):
            for j in range(5):
                for c in range(2):
                    for a in (-1, 0, 1):
                        for b in (-1, 0, 1):
                            if 0 <= i + a < 4 and 0 <= j + b < 5:
                                out[0, o, i, j] += K[o, c, a + 1, b + 1] * y[0, c, i + a, j + b]
    torch.testing.assert_close(map.apply(K, y), out, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (1, 6)])
def test_the_norm_of_a_dense_map_is_its_largest_singular_value(shape: tuple[int, int]) -> None:
    K = torch.randn(shape)
    torch.testing.assert_close(Dense(shape[1], shape[0]).norm(K), torch.linalg.svdvals(K)[0], rtol=1e-13, atol=0.0)
    stack = torch.randn(2, 4, *shape)
    each = [[torch.linalg.svdvals(stack[i, j])[0] for j in range(4)] for i in range(2)]
    torch.testing.assert_close(Dense(shape[1], shape[0]).norm(stack), torch.tensor(each), rtol=1e-13, atol=0.0)


def test_the_norm_of_a_1x1_map_is_that_of_its_matrix() -> None:
    map = Conv(3, 4, 1, 2)
    K = torch.randn(map.shape)
    torch.testing.assert_close(map.norm(K), torch.linalg.svdvals(K[:, :, 0, 0])[0], rtol=1e-12, atol=0.0)
    A = matrix(map, K, (3, 4, 3))
    torch.testing.assert_close(map.norm(K), torch.linalg.svdvals(A)[0], rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(
    ("map", "sizes"),
    [
        (Conv(2, 2, 3, 1), [(1,), (2,), (7,), (30,), (64,), (200,)]),
        (Conv(1, 1, 5, 1), [(3,), (31,), (100,), (300,)]),
        (Conv(1, 1, 33, 1), [(20,), (150,)]),
        (Conv(2, 2, 3, 2), [(1, 1), (4, 9), (12, 12)]),
        (Conv(1, 1, 5, 2), [(5, 6), (17, 17)]),
    ],
)
def test_the_norm_of_a_convolution_bounds_the_operator_at_every_size(map: Conv, sizes: list[tuple[int, ...]]) -> None:
    for seed in range(3):
        K = torch.randn(map.shape, generator=torch.Generator().manual_seed(seed))
        bound = float(map.norm(K))
        for size in sizes:
            assert float(torch.linalg.svdvals(matrix(map, K, (map.cols, *size)))[0]) <= bound * (1 + 1e-12), size


def test_the_norm_of_a_convolution_is_a_bound_where_the_symbol_peaks_between_the_frequencies() -> None:
    map = Conv(1, 1, 3, 1)
    frequencies = torch.exp(1j * torch.linspace(0, 2 * math.pi, 20001)[:, None] * torch.arange(3.0))
    worst = 0.0
    for seed in range(200):
        K = torch.randn(map.shape, generator=torch.Generator().manual_seed(seed))
        top = float((frequencies @ K.flatten().to(torch.complex128)).abs().max())
        assert top <= float(map.norm(K)) <= 1.005 * top
        worst = max(worst, top / float(map.norm(K)))
    assert worst > 0.995  # and it is nearly attained


def test_the_norm_of_a_stack_of_convolutions_is_that_of_each() -> None:
    map = Conv(2, 3, 3, 2)
    stack = torch.randn(2, 4, *map.shape)
    each = torch.tensor([[float(map.norm(stack[i, j])) for j in range(4)] for i in range(2)])
    torch.testing.assert_close(map.norm(stack), each, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("name", [None, "dense", "conv1d", "conv2d", "conv1x1"])
def test_a_name_stands_for_a_map(name: str | None) -> None:
    kernel = {None: (), "dense": (), "conv1d": (3,), "conv2d": (3, 3), "conv1x1": (1, 1)}[name]
    assert maps.resolve(name, 4, 6).shape == (6, 4, *kernel)
    assert maps.resolve(name, 4).shape == (4, 4, *kernel)


WRONG = [
    (lambda: Conv(2, 2, 4), "odd kernel"),
    (lambda: Conv(2, 2, 3, 3), "dims 1 or 2"),
    (lambda: maps.resolve("conv3d", 4), "'conv3d' is not known"),
    (lambda: maps.resolve(Dense(5, 5), 4), "from 5 to 5 features; here it goes from 4"),
    (lambda: maps.resolve(Dense(4, 6), 4, square=True), "from 4 to 6 features; here it goes from 4 to 4"),
    (lambda: maps.resolve(Dense(4, 6), 4, 5), "here it goes from 4 to 5"),
    (lambda: maps.resolve(None, 4, 0), "hidden is a positive whole number, got 0"),
    (lambda: maps.resolve(None, 4, 2.5), "hidden is a positive whole number, got 2.5"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "sentence"), WRONG)
def test_a_map_that_cannot_be_is_refused_with_a_sentence(build: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        build()  # type: ignore[operator]
