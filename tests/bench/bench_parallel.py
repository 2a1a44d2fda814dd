"""One training step (forward, backward, update) of deep narrow nets: layers together against layers one by one.

    python tests/bench/bench_parallel.py [--pairs 9] [--quick] [--compiled 600]

Euler nets over T = 4 with weights smooth in depth. Every pair runs the serial loop (the faster of gradient="autograd"
and "discrete") and flow.Parallel in alternation, one thread; reported are the median of the ratios of wall times, the
same for the time on the processor, and the relative error of the gradient of all weights. `--compiled SECONDS` adds
torch.compile of the bare serial loop at N = 1024, given up after so many seconds of compiling. Nothing fails on a time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from record import save
from torch import Tensor, nn

import odenet as on
from odenet.flow import Flow, Parallel

T = 4.0
NETS: dict[str, Callable[[int], Any]] = {
    "resnet": on.fields.Free,
    "antisymmetric": lambda d: on.fields.Antisymmetric(d, gamma=0.0),
}
PLANS: dict[str, dict[str, Any]] = {
    "parareal, k = 2": {"iterations": 2},
    "midpoint below, k = 1": {"iterations": 1, "coarse": "midpoint"},
    "the same, warm": {"iterations": 1, "coarse": "midpoint", "warm": True},
}


def net(kind: str, N: int, d: int, gradient: Any) -> Flow:
    """Weights that are four cosines of depth, the same for every gradient method."""
    flow, generator = Flow(NETS[kind](d), "euler", steps=N, span=(0.0, T), gradient=gradient), torch.Generator()
    generator.manual_seed(0)
    with torch.no_grad():
        for p in flow.weights.values():
            s = torch.linspace(0, 1, N).reshape(-1, *[1] * (p.dim() - 1))
            draws = [torch.randn(p.shape[1:], generator=generator) for _ in range(4)]
            p.copy_(sum(torch.cos(torch.pi * k * s) * w / (k + 1) for k, w in enumerate(draws)) / d**0.5)
    return flow


def step_of(model: nn.Module, y: Tensor, target: Tensor) -> Callable[[], None]:
    """One step of gradient descent, so small that the weights stay where they are."""
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-6)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        (model(y) - target).square().mean().backward()
        optimiser.step()

    return step


def gradient(model: nn.Module, y: Tensor, target: Tensor) -> Tensor:
    loss = (model(y) - target).square().mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, tuple(model.parameters()))])


def timed(f: Callable[[], None]) -> tuple[float, float]:
    wall, used = time.perf_counter(), time.process_time()
    f()
    return time.perf_counter() - wall, time.process_time() - used


def row(kind: str, N: int, d: int, batch: int, plan: str, c: int, pairs: int) -> dict[str, Any]:
    """Ratios of serial to parallel, in alternation."""
    generator = torch.Generator().manual_seed(1)
    y, target = (torch.randn(batch, d, generator=generator) for _ in range(2))
    how = Parallel(coarsening=c, **PLANS[plan])
    serial = {g: net(kind, N, d, g) for g in ("autograd", "discrete")}
    parallel = net(kind, N, d, how)
    exact = gradient(serial["autograd"].double(), y.double(), target.double())
    error = [float((gradient(m, y, target).double() - exact).norm() / exact.norm())
             for m in (parallel, serial["autograd"].float())]  # fmt: skip
    steps = {g: step_of(m, y, target) for g, m in serial.items()}
    together = step_of(parallel, y, target)
    times: dict[str, list[tuple[float, float]]] = {"autograd": [], "discrete": [], "parallel": []}
    for f in (*steps.values(), together):
        f()
    for _ in range(pairs):
        for g, f in (*steps.items(), ("parallel", together)):
            times[g].append(timed(f))
    wall, used = ([median(t[i] for t in times[g]) for g in times] for i in (0, 1))
    best = min(("autograd", "discrete"), key=lambda g: median(t[1] for t in times[g]))
    ratios = [[a[i] / b[i] for a, b in zip(times[best], times["parallel"])] for i in (0, 1)]
    return {
        "net": kind, "N": N, "d": d, "batch": batch, "plan": plan, "c": c, "ratio": round(median(ratios[0]), 2),
        "ratio_cpu": round(median(ratios[1]), 2), "lowest": round(min(ratios[0]), 2), "error": float(f"{error[0]:.1e}"),
        "serial_float32_error": float(f"{error[1]:.1e}"), "serial": best, "serial_ms": round(1e3 * min(wall[:2]), 1),
        "parallel_ms": round(1e3 * wall[2], 1), "parallel_cpu_ms": round(1e3 * used[2], 1),
    }  # fmt: skip


class Bare(nn.Module):
    """The residual net as one would write it by hand, to be compiled."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.K, self.b = (nn.Parameter(flow.weights[k].detach().clone()) for k in ("K", "b"))

    def forward(self, y: Tensor) -> Tensor:
        h = T / len(self.K)
        for K, b in zip(self.K.unbind(0), self.b.unbind(0)):
            y = y + h * torch.tanh(torch.nn.functional.linear(y, K, b))
        return y


def _compiled(N: int, d: int, batch: int, c: int, pairs: int, queue: Any) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    y, target = (torch.randn(batch, d, generator=generator) for _ in range(2))
    bare = Bare(net("resnet", N, d, "autograd"))
    eager, parallel = step_of(bare, y, target), step_of(net("resnet", N, d, _best(c)), y, target)
    loop, start = step_of(torch.compile(bare, fullgraph=True), y, target), time.perf_counter()  # type: ignore[arg-type]
    loop()
    loop()
    seconds = time.perf_counter() - start
    parallel()
    times = [[timed(f)[1] for f in (eager, loop, parallel)] for _ in range(pairs)]
    queue.put({"compile_seconds": round(seconds, 1), "bare_eager_over_parallel": median(a / p for a, _, p in times),
               "compiled_over_parallel": median(b / p for _, b, p in times)})  # fmt: skip


def _best(c: int) -> Parallel:
    return Parallel(coarsening=c, **PLANS["midpoint below, k = 1"])


def compiled(limit: float, N: int = 1024, d: int = 16, batch: int = 8, c: int = 32, pairs: int = 9) -> dict[str, Any]:
    """In a process of its own, which is ended after `limit` seconds."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_compiled, args=(N, d, batch, c, pairs, queue))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.terminate()
        return {"N": N, "d": d, "batch": batch, "compiled": f"not measured: not compiled within {limit:g} s"}
    if process.exitcode:
        return {"N": N, "d": d, "batch": batch, "compiled": "not measured: it ended with an error, see above"}
    return {"N": N, "d": d, "batch": batch, **{k: round(v, 2) for k, v in queue.get().items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="one depth, one width")
    parser.add_argument("--compiled", type=float, default=0.0, help="seconds to wait for torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for kind in NETS:
        for N in (1024,) if args.quick else (1024, 4096):
            for d in (16,) if args.quick else (4, 16):
                for batch in (8,) if args.quick else (1, 8):
                    for plan in PLANS:
                        rows.append(row(kind, N, d, batch, plan, 32 if N == 1024 else 64, args.pairs))
                        print(rows[-1], flush=True)
    found: dict[str, Any] = {"settings": {"T": T, "pairs": args.pairs, "threads": 1, "dtype": "float32"}, "rows": rows}
    if args.compiled:
        found["compiled"] = [compiled(args.compiled)]
        print(found["compiled"])
    save("parallel", found)


if __name__ == "__main__":
    main()
