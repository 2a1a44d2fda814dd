"""Baselines against torch.nn, hand-written loops and published counts; each builds, trains and is seeded."""

from __future__ import annotations

import itertools
import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from odenet.errors import BadInput, Incompatible, UnknownName
from odenet.fields import activations
from odenet.nets import baselines
from odenet.nets.base import NETS
from odenet.nets.pooling import POOLINGS, StochasticPool, pool

torch.set_num_threads(1)
MINE = {
    "perceptron": ((4, 3), torch.Size([5, 4])),
    "mlp": ((4, 3), torch.Size([5, 4])),
    "cnn": ((1, 3, 8), torch.Size([5, 64])),
    "rnn": ((4, 3), torch.Size([5, 6, 4])),
    "lstm": ((4, 3), torch.Size([5, 6, 4])),
    "gru": ((4, 3), torch.Size([5, 6, 4])),
    "attention": ((4, 3), torch.Size([5, 6, 4])),
    "tree_net": ((4, 3), None),
}


def example(name, seed=0):
    args, shape = MINE[name]
    if shape is None:
        return args, [(0, (1, 2)), 3, ((1, 1), (2, 0)), (3, 2), (0, 0)]
    return args, torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", MINE)
def test_a_baseline_gives_three_finite_scores_and_a_gradient_to_every_weight(name):
    args, x = example(name)
    net = NETS.get(name)(*args)
    y = net(x)
    assert y.shape == (5, 3) and bool(y.isfinite().all())
    (y**2 + y).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in net.parameters())


@pytest.mark.parametrize("name", MINE)
def test_a_baseline_is_rebuilt_from_its_spec_and_seed(name):
    args, x = example(name)
    state = torch.get_rng_state()
    net = NETS.get(name)(*args, seed=7)
    assert torch.equal(state, torch.get_rng_state())
    spec = json.loads(json.dumps(net.spec))
    twin = NETS.get(spec["net"])(**spec["args"])
    assert torch.equal(net(x), twin(x))
    if name != "perceptron":  # starts from zero
        assert not torch.equal(net(x), NETS.get(name)(*args, seed=8)(x))


@pytest.mark.parametrize("name", MINE)
def test_a_baseline_is_a_list_of_layers_registered_with_its_reference(name):
    make = NETS.get(name)
    assert isinstance(make(*MINE[name][0]), nn.Sequential)
    assert make.kind == "baseline" and make.takes and make.cite and make.__doc__


@pytest.mark.parametrize("name", [n for n in MINE if n != "tree_net"])
def test_samples_of_a_batch_do_not_see_one_another(name):
    args, x = example(name)
    net = NETS.get(name)(*args).double()
    alone = torch.cat([net(row[None].double()) for row in x])
    torch.testing.assert_close(net(x.double()), alone, rtol=1e-12, atol=1e-12)


# perceptron


def separable(n, seed, classes=2):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=g, dtype=torch.float64)
    w = torch.randn(classes, 4, generator=g, dtype=torch.float64)
    w = w / w.norm()
    scores = x @ w[:, :3].T + w[:, 3]
    best = scores.topk(2).values
    keep = best[:, 0] - best[:, 1] > 0.1
    return x[keep], scores.argmax(dim=1)[keep], w


@pytest.mark.parametrize("seed", range(5))
def test_the_perceptron_rule_ends_within_novikoffs_mistake_bound(seed):
    x, y, w = separable(300, seed)
    direction = (w[1] - w[0]) / (w[1] - w[0]).norm()
    lifted = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    margin = float(((2 * y - 1) * (lifted @ direction)).min())
    net = baselines.perceptron(3).double()
    mistakes = baselines.perceptron_rule(net, x, y, epochs=1000)
    assert margin > 0 and mistakes[-1] == 0
    assert 0 < sum(mistakes) <= (float(lifted.norm(dim=1).max()) / margin) ** 2
    assert torch.equal((net(x)[:, 0] > 0).long(), y)


def test_the_perceptron_rule_of_several_classes_ends_within_twice_the_bound():
    x, y, w = separable(300, 0, classes=4)
    lifted = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    scores = lifted @ w.T
    others = scores.scatter(1, y[:, None], -torch.inf).max(dim=1).values
    margin = float((scores.gather(1, y[:, None])[:, 0] - others).min())
    net = baselines.perceptron(3, 4).double()
    mistakes = baselines.perceptron_rule(net, x, y, epochs=1000)
    assert mistakes[-1] == 0 and sum(mistakes) <= 2 * (float(lifted.norm(dim=1).max()) / margin) ** 2
    assert torch.equal(net(x).argmax(dim=1), y)


def test_one_mistake_moves_the_rows_of_the_label_and_of_the_guess_and_no_other():
    net, x = baselines.perceptron(2, 3), torch.tensor([[2.0, -1.0]])
    assert baselines.perceptron_rule(net, x, torch.tensor([2]), epochs=1) == [1]
    assert net[0].weight.tolist() == [[-2.0, 1.0], [0.0, 0.0], [2.0, -1.0]]
    assert net[0].bias.tolist() == [-1.0, 0.0, 1.0]


def test_the_perceptron_never_learns_exclusive_or_and_stops_at_the_last_epoch():
    """Minsky & Papert 1969."""
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    mistakes = baselines.perceptron_rule(baselines.perceptron(2), x, torch.tensor([0, 1, 1, 0]), epochs=50)
    assert len(mistakes) == 50 and min(mistakes) > 0
    with pytest.raises(BadInput, match="one linear layer"):
        baselines.perceptron_rule(nn.Tanh(), x, torch.zeros(4))


# mlp


def test_mlp_equals_the_formula_written_out():
    net = baselines.mlp(4, 3, width=5, steps=2, activation="softplus").double()
    linear = [part for part in net if isinstance(part, nn.Linear)]
    W, b = [part.weight for part in linear], [part.bias for part in linear]
    x = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = F.softplus(F.softplus(x @ W[0].T + b[0]) @ W[1].T + b[1]) @ W[2].T + b[2]
    torch.testing.assert_close(net(x), h, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("steps, count", [(0, 650), (1, 4810), (3, 13130)])
def test_mlp_has_the_counted_parameters(steps, count):
    """64 -> width 64 -> 10: 4160 per hidden layer, 650 in the head."""
    assert sum(p.numel() for p in baselines.mlp(64, 10, 64, steps).parameters()) == count


@pytest.mark.parametrize("activation", [*activations.names(), "parametric_relu", "randomised_relu"])
def test_mlp_takes_every_activation(activation):
    assert baselines.mlp(4, 3, activation=activation)(torch.ones(2, 4)).shape == (2, 3)


@pytest.mark.parametrize("norm", ["batch", "layer", "weight"])
def test_mlp_normalises_as_the_definition_says(norm):
    net = baselines.mlp(4, 3, width=6, steps=1, norm=norm)
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    if norm == "weight":
        scale, v = net[0].parametrizations.weight.original0, net[0].parametrizations.weight.original1
        torch.testing.assert_close(net[0].weight, scale * v / v.norm(dim=1, keepdim=True))
    else:
        dim = 0 if norm == "batch" else 1
        h = net[0](x)
        expected = (h - h.mean(dim, keepdim=True)) / (h.var(dim, unbiased=False, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(net[1](h), expected, rtol=1e-4, atol=1e-5)


def test_dropout_acts_in_training_only():
    net, x = baselines.mlp(4, 3, dropout=0.5), torch.ones(2, 4)
    torch.manual_seed(0)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_mlp_refuses_unknown_words():
    with pytest.raises(BadInput, match="one of batch, layer, weight"):
        baselines.mlp(4, 3, norm="group")
    with pytest.raises(UnknownName, match="did you mean 'xavier'"):
        baselines.mlp(4, 3, init="xaver")
    with pytest.raises(UnknownName, match="did you mean 'tanh'"):
        baselines.mlp(4, 3, activation="tahn")


# cnn


def test_cnn_has_lenet5s_published_layer_sizes():
    """LeCun et al. 1998, sec. II.B: 156 weights in C1, 48120 in C5, 10164 in F6."""
    net = baselines.cnn(size=32, widths=(6, 16), hidden=(120, 84), kernel=5, padding=0, pooling="average")
    sizes = [sum(p.numel() for p in part.parameters()) for part in net]
    assert [s for s in sizes if s] == [156, 2416, 48120, 10164, 850]


def test_cnn_takes_flat_and_shaped_images_alike_and_refuses_others():
    net = baselines.cnn(channels=3, classes=4, size=8)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(net(x), net(x.flatten(1)))
    with pytest.raises(BadInput, match=r"takes images \(3, 8, 8\)"):
        net(x[:, :2])
    with pytest.raises(BadInput, match="too small for 4 poolings"):
        baselines.cnn(size=8, widths=(4, 4, 4, 4))


@pytest.mark.parametrize("norm", [None, "batch", "layer", "instance", "group", "weight"])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_cnn_trains_with_every_pooling_and_norm(pooling, norm):
    torch.manual_seed(0)
    net = baselines.cnn(classes=2, widths=(4, 8), hidden=(8,), pooling=pooling, norm=norm)
    x = torch.rand(16, 64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(16) % 2
    x[y == 1, :32] += 1.0
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(25):
        adam.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        adam.step()
    assert loss.item() < 0.35  # log 2 = 0.69 is guessing


@pytest.mark.parametrize("kind", POOLINGS)
def test_pooling_equals_a_loop_over_windows_and_drops_what_is_left_over(kind):
    x = torch.randn(2, 3, 7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    of_window = {
        "max": max,
        "average": lambda a: sum(a) / 9,
        "sum": sum,
        "l2": lambda a: math.hypot(*a),
        "stochastic": lambda a: sum(v * v for v in a if v > 0) / sum(v for v in a if v > 0),
    }[kind]
    y = pool(kind, 3).eval()(x)
    assert y.shape == (2, 3, 2, 2)
    for b, c, i, j in itertools.product(range(2), range(3), range(2), range(2)):
        window = x[b, c, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].flatten().tolist()
        assert y[b, c, i, j].item() == pytest.approx(of_window(window), rel=1e-12)


@pytest.mark.parametrize("kind", POOLINGS)
def test_pooling_a_window_of_zeros_gives_zero_and_a_finite_gradient(kind):
    x = torch.zeros(1, 1, 2, 2, requires_grad=True)
    y = pool(kind)(x)
    y.sum().backward()
    assert y.item() == 0.0 and bool(x.grad.isfinite().all())


def test_an_unknown_pooling_is_refused():
    with pytest.raises(BadInput, match="choose one of max, average"):
        pool("median")


def test_stochastic_pooling_draws_in_proportion_and_averages_when_evaluated():
    """Zeiler & Fergus 2013: activations 1, 0, 3, 0 are drawn 1/4, 0, 3/4, 0 of the time; mean 1/4 + 9/4."""
    torch.manual_seed(0)
    layer, window = StochasticPool(2), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    x = window.expand(4000, 1, 2, 2)
    drawn = layer(x)
    assert set(drawn.unique().tolist()) == {1.0, 3.0}
    assert float((drawn == 3).double().mean()) == pytest.approx(0.75, abs=0.02)
    assert float(layer.eval()(x)[0]) == 2.5
    assert float(layer(torch.zeros(1, 1, 2, 2))) == 0.0


# recurrent nets


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("make, core", [("rnn", nn.RNN), ("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_recurrent_nets_read_the_states_of_torch_nn(make, core, bidirectional):
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    net = NETS.get(make)(4, 2, width=6, layers=2, bidirectional=bidirectional)
    each = NETS.get(make)(4, 2, width=6, layers=2, bidirectional=bidirectional, every_step=True)
    oracle = core(4, 6, 2, batch_first=True, bidirectional=bidirectional)
    oracle.load_state_dict(net[0].core.state_dict())
    states, _ = oracle(x)
    last = torch.cat([states[:, -1, :6], states[:, 0, 6:]], dim=-1)
    torch.testing.assert_close(net(x), net[1](last))
    torch.testing.assert_close(each(x), each[1](states))
    assert each(x).shape == (3, 5, 2)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_unrolled_rnn_is_the_rnn_and_so_is_its_back_propagation_through_time(layers):
    net = baselines.rnn(4, 2, width=6, layers=layers).double()
    x = torch.randn(3, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h, maps = net.unrolled(x)
    assert h.shape == (3, 6 * layers) and len(maps) == 7
    states = [h.requires_grad_()]
    for step in maps:
        states.append(step(states[-1]))
    y = net[1](states[-1][:, -6:])
    torch.testing.assert_close(y, net(x), rtol=1e-13, atol=1e-13)

    costate = torch.autograd.grad(y.sum(), states[-1], retain_graph=True)[0]
    for step, state in zip(reversed(maps), reversed(states[:-1])):
        costate = torch.func.vjp(step, state.detach())[1](costate)[0]
    torch.testing.assert_close(costate, torch.autograd.grad(y.sum(), h)[0], rtol=1e-12, atol=1e-13)


def test_only_the_vanilla_rnn_unrolls():
    for net in (baselines.gru(4, 2), baselines.lstm(4, 2), baselines.rnn(4, 2, bidirectional=True)):
        with pytest.raises(Incompatible, match="vanilla rnn"):
            net.unrolled(torch.zeros(1, 2, 4))


# trees


def test_tree_net_equals_the_recursion_written_out():
    net = baselines.tree_net(5, 2, width=4).double()
    roots, head = net

    def state(node):
        if isinstance(node, int):
            return roots.embedding.weight[node]
        return torch.tanh(roots.merge.weight @ torch.cat([state(node[0]), state(node[1])]) + roots.merge.bias)

    trees = [((0, 1), (2, (3, 4))), 2, (1, (1, (1, (0, 0)))), ((4, 3), (2, 1))]
    expected = torch.stack([head(state(tree)) for tree in trees])
    torch.testing.assert_close(net(trees), expected, rtol=1e-13, atol=1e-13)


def test_leaves_may_be_vectors_and_left_and_right_differ():
    net = baselines.tree_net(5, 2, width=4)
    vectors = net[0].embedding.weight.detach()
    assert torch.equal(net([(vectors[1], (2, vectors[0]))]), net([(1, (2, 0))]))
    assert not torch.allclose(net([(1, 2)]), net([(2, 1)]))


def test_a_tree_two_thousand_deep_needs_no_recursion():
    tree = 0
    for _ in range(2000):
        tree = (tree, 1)
    assert bool(baselines.tree_net(2, 2, width=4)([tree]).isfinite().all())


def test_malformed_trees_are_refused():
    net = baselines.tree_net(5, 2)
    with pytest.raises(BadInput, match="3 children"):
        net([(1, 2, 3)])
    with pytest.raises(BadInput, match="token 5 is outside the vocabulary"):
        net([(1, 5)])
