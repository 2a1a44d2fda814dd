"""One training step (forward, backward, update) of deep narrow nets: layers together against layers one by one.

    python tests/bench/bench_parallel.py [--pairs 5] [--quick] [--no-compiled]

Nets over T = 4 with weights smooth in depth, one thread. The faster of both serial loops (gradient="autograd" and
"discrete") and the plans of `PLANS` run in alternation; reported are medians over the rounds of the ratio of the loop's
time to the plan's, of time on the processor and of wall time, and beside each the relative error of the gradient of all
weights against float64 (of a plan that starts warm: in its first pass). `one_shot` trains with warm starts and one
iteration per step, and has the error of that gradient after 0, 10 and 50 steps. `compiled` has the residual net as a
bare loop written by hand, as torch.jit.script of it, and by torch.compile in chunks of 32 layers (of all N its compiler
takes many minutes): the smallest of their ratios is that to the best compiled serial loop. Nothing fails on a time.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from record import save
from torch import Tensor, nn

import odenet as on
from odenet.flow import Flow, Parallel

T, CHUNK = 4.0, 32
NETS: dict[str, tuple[Callable[[int], Any], str, str | None]] = {  # field, integrator, its coarse model
    "resnet": (on.fields.Free, "euler", "midpoint"),
    "antisymmetric": (lambda d: on.fields.Antisymmetric(d, gamma=0.0), "euler", "midpoint"),
    "hamiltonian": (on.fields.SeparableHamiltonian, "verlet", None),
}
PLANS: dict[str, dict[str, Any]] = {"k = 1": {"iterations": 1}, "k = 1, warm": {"iterations": 1, "warm": True}}
CHUNKS = {1024: 32, 4096: 64}


def net(kind: str, N: int, d: int, gradient: Any) -> Flow:
    """Weights that are four cosines of depth, the same for every gradient method."""
    make, integrator, _ = NETS[kind]
    flow, generator = Flow(make(d), integrator, steps=N, span=(0.0, T), gradient=gradient), torch.Generator()
    generator.manual_seed(0)
    with torch.no_grad():
        for p in flow.weights.values():
            s = torch.linspace(0, 1, N).reshape(-1, *[1] * (p.dim() - 1))
            draws = [torch.randn(p.shape[1:], generator=generator) for _ in range(4)]
            p.copy_(sum(torch.cos(torch.pi * k * s) * w / (k + 1) for k, w in enumerate(draws)) / d**0.5)
    return flow


def plan(kind: str, N: int, name: str = "k = 1") -> Parallel:
    return Parallel(coarsening=CHUNKS[N], coarse=NETS[kind][2], **PLANS[name])


def pair(batch: int, d: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets."""
    generator = torch.Generator().manual_seed(1)
    y, target = (torch.randn(batch, d, generator=generator) for _ in range(2))
    return y, target


def step_of(model: nn.Module, y: Tensor, target: Tensor, lr: float = 1e-6) -> Callable[[], None]:
    """One step of gradient descent, for timing so small that the weights stay where they are."""
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        (model(y) - target).square().mean().backward()
        optimiser.step()

    return step


def gradient(model: nn.Module, y: Tensor, target: Tensor) -> Tensor:
    loss = (model(y) - target).square().mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, tuple(model.parameters()))])


def off(found: Tensor, exact: Tensor) -> float:
    """Relative error, two digits."""
    return float(f"{float((found.double() - exact).norm() / exact.norm()):.1e}")


def alternating(steps: dict[str, Callable[[], None]], pairs: int) -> dict[str, list[tuple[float, float]]]:
    """Wall and processor seconds of every step in every round; each runs once untimed before, as in training."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(pairs + 1):
        for name, f in steps.items():
            f()
            wall, used = time.perf_counter(), time.process_time()
            f()
            if turn:
                times[name].append((time.perf_counter() - wall, time.process_time() - used))
    return times


def ratio(above: list[tuple[float, float]], below: list[tuple[float, float]], which: int) -> float:
    return round(median(a[which] / b[which] for a, b in zip(above, below)), 2)


def milliseconds(times: list[tuple[float, float]]) -> float:
    """Median, on the processor."""
    return round(1e3 * median(used for _, used in times), 1)


def rows(kind: str, N: int, d: int, batch: int, pairs: int) -> list[dict[str, Any]]:
    """One row per plan."""
    y, target = pair(batch, d)
    nets = {g: net(kind, N, d, g) for g in ("autograd", "discrete")} | {
        p: net(kind, N, d, plan(kind, N, p)) for p in PLANS
    }
    exact = gradient(net(kind, N, d, "autograd").double(), y.double(), target.double())
    errors = {name: off(gradient(model, y, target), exact) for name, model in nets.items()}
    steps = {name: step_of(model, y, target) for name, model in nets.items()}
    tried = alternating({g: steps[g] for g in ("autograd", "discrete")}, 1)
    best = min(tried, key=lambda g: milliseconds(tried[g]))
    times = alternating({name: steps[name] for name in (best, *PLANS)}, pairs)
    return [
        {
            "net": kind, "N": N, "d": d, "batch": batch, "plan": p, "c": CHUNKS[N],
            "ratio_cpu": ratio(times[best], times[p], 1), "ratio_wall": ratio(times[best], times[p], 0),
            "error": errors[p], "serial_error": errors[best], "serial": best,
            "serial_cpu_ms": milliseconds(times[best]), "parallel_cpu_ms": milliseconds(times[p]),
        }
        for p in PLANS
    ]  # fmt: skip


# ---- serial loops written by hand, and compiled --------------------------------------------------------------------


class Bare(nn.Module):
    """The residual net as one would write it by hand; `run(y, K, b, h)` takes `chunk` layers at a time."""

    def __init__(self, flow: Flow, run: Callable[..., Tensor], chunk: int) -> None:
        super().__init__()
        self.K, self.b = (nn.Parameter(flow.weights[k].detach().clone()) for k in ("K", "b"))
        self.run, self.chunk = run, chunk

    def forward(self, y: Tensor) -> Tensor:
        h = T / len(self.K)
        for K, b in zip(self.K.split(self.chunk), self.b.split(self.chunk)):
            y = self.run(y, K, b, h)
        return y


def loop(y: Tensor, K: Tensor, b: Tensor, h: float) -> Tensor:
    Ks, bs = K.unbind(0), b.unbind(0)
    for i in range(len(Ks)):
        y = y + h * torch.tanh(torch.nn.functional.linear(y, Ks[i], bs[i]))
    return y


def compiled(N: int, d: int, batch: int, pairs: int) -> list[dict[str, Any]]:
    """One row per loop: its time over that of `Parallel`."""
    y, target = pair(batch, d)
    flow = net("resnet", N, d, "autograd")
    ways: dict[str, Callable[[], nn.Module]] = {
        "by hand": lambda: Bare(flow, loop, N),
        "torch.jit.script": lambda: Bare(flow, torch.jit.script(loop), N),
        f"torch.compile, chunks of {CHUNK}": lambda: Bare(flow, torch.compile(loop, fullgraph=True), CHUNK),
    }
    steps, found = {"parallel": step_of(net("resnet", N, d, plan("resnet", N)), y, target)}, []
    exact, seconds, errors = gradient(flow.double(), y.double(), target.double()), {}, {}
    flow.float()
    for way, make in ways.items():
        start = time.perf_counter()
        try:
            model = make()
            errors[way] = off(gradient(model, y, target), exact)
        except Exception as problem:  # no C++ compiler, most often: said in the row
            found.append({"loop": way, "N": N, "d": d, "batch": batch, "failed": str(problem).splitlines()[0]})
            continue
        seconds[way], steps[way] = time.perf_counter() - start, step_of(model, y, target)
    times = alternating(steps, pairs)
    for way in seconds:
        found.append({
            "loop": way, "N": N, "d": d, "batch": batch, "first_call_seconds": round(seconds[way], 1),
            "over_parallel_cpu": ratio(times[way], times["parallel"], 1), "cpu_ms": milliseconds(times[way]),
            "over_parallel_wall": ratio(times[way], times["parallel"], 0), "error": errors[way],
            "parallel_cpu_ms": milliseconds(times["parallel"]),
        })  # fmt: skip
    return found


# ---- one-shot training ---------------------------------------------------------------------------------------------


def one_shot(kind: str, N: int, d: int, batch: int, lr: float, steps: int = 50) -> list[dict[str, Any]]:
    """Error of the warm gradient against that of float64 at the same weights, in a run that follows the former."""
    y, target = pair(batch, d)
    how = plan(kind, N, "k = 1, warm")
    model, exactly, found = net(kind, N, d, how), net(kind, N, d, "autograd").double(), list[dict[str, Any]]()
    optimiser = torch.optim.SGD(model.parameters(), lr=lr)
    for n in range(steps + 1):
        optimiser.zero_grad(set_to_none=True)
        loss = (model(y) - target).square().mean()
        loss.backward()
        if n in (0, 10, steps):
            exactly.load_state_dict(model.state_dict())
            wanted = gradient(exactly, y.double(), target.double())
            warm = torch.cat([p.grad.flatten() for p in model.parameters()])  # type: ignore[union-attr]
            cold = gradient(net_like(model, plan(kind, N)), y, target)
            found.append({"net": kind, "N": N, "d": d, "batch": batch, "lr": lr, "step": n,
                          "loss": float(f"{float(loss.detach()):.4g}"), "error": off(warm, wanted),
                          "cold_error": off(cold, wanted),
                          "costate_residual": float(f"{how.achieved.costate_residual:.1e}")})  # type: ignore[union-attr]  # fmt: skip
        optimiser.step()
    return found


def net_like(model: Flow, how: Parallel) -> Flow:
    """The same weights under another gradient."""
    twin = Flow(model.field, model.integrator.name, steps=len(model.march.knots) - 1, span=(0.0, T), gradient=how)
    twin.load_state_dict(model.state_dict())
    return twin


def shown(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for one in found:
        print(one, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one depth, width and batch")
    parser.add_argument("--no-compiled", action="store_true", help="without torch.compile and torch.jit.script")
    args = parser.parse_args()
    torch.set_num_threads(1)
    depths, widths, batches = ((1024,), (16,), (8,)) if args.quick else ((1024, 4096), (4, 16), (8, 64))
    cells = [(kind, N, d, batch) for kind in NETS for N in depths for d in widths for batch in batches]
    settings = {"T": T, "pairs": args.pairs, "threads": 1, "dtype": "float32"}
    found: dict[str, Any] = {"settings": {**settings, "coarse": {k: way[2] or way[1] for k, way in NETS.items()}}}
    found["rows"] = [one for cell in cells for one in shown(rows(*cell, args.pairs))]
    found["one_shot"] = [one for kind in NETS for one in shown(one_shot(kind, 1024, 16, 8, lr=4.0))]
    if not args.no_compiled:
        found["compiled"] = [one for batch in batches for one in shown(compiled(1024, 16, batch, args.pairs))]
    save("parallel", found)


if __name__ == "__main__":
    main()
