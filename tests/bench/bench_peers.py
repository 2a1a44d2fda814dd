"""Seconds and memory against torchdiffeq: forward, forward and backward, on a small network in float32, one thread.

    python tests/bench/bench_peers.py                     through odenet.solve: about four minutes
    python tests/bench/bench_peers.py --call odeint       through odenet.odeint, the drop-in
    python tests/bench/bench_peers.py --cases "2,1" --budget 1

y' = W3 tanh(W2 tanh(W1 y)), dim -> 64 -> 64 -> dim with biases, weights of variance 1.6^2 2/(in + out), t in [0, 2],
rtol 1e-5, atol 1e-6, loss sum y(2)^2. Runs alternate, ours and theirs in one process, and the ratio is the median over
the pairs of theirs/ours. torchdiffeq's "rk4" is the 3/8 rule, here rk4_38, with 100 steps. Errors are relative to
float64 solutions at 1e-10; `no_worse` says that our error is at most theirs, or below the tolerance of 1e-5. Cases of
equal error run ours at a tolerance looser by a power of two, `loose`, whose error in y(2) is still at most theirs.
Memory is the growth of the process's peak in a process of its own.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchdiffeq
from record import save
from torch import Tensor, nn

import odenet as on

SIZES = ((2, 1), (2, 128), (64, 128), (64, 1024))
END, RTOL, ATOL, STEPS = 2.0, 1e-5, 1e-6, 100
Run = Callable[[], Tensor]


class Net(nn.Module):
    """The vector field."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, dim))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight, gain=1.6)
                nn.init.zeros_(layer.bias)

    def forward(self, t: Any, y: Tensor) -> Tensor:
        return self.layers(y)


def ours(net: Net, y0: Tensor, rk4: bool, gradient: str, call: str, loose: float = 1.0) -> Tensor:
    if call == "odeint":
        return theirs(net, y0, rk4, on.odeint_adjoint if gradient == "adjoint" else on.odeint)
    pace = {"steps": STEPS} if rk4 else {"rtol": loose * RTOL, "atol": loose * ATOL}
    return on.solve(net, y0, [0.0, END], integrator="rk4_38" if rk4 else "dopri5", gradient=gradient, **pace).y[-1]


def theirs(net: Net, y0: Tensor, rk4: bool, odeint: Any = torchdiffeq.odeint) -> Tensor:
    t = torch.tensor([0.0, END])
    if rk4:
        return odeint(net, y0, t, method="rk4", options={"step_size": END / STEPS})[-1]
    return odeint(net, y0, t, method="dopri5", rtol=RTOL, atol=ATOL)[-1]


def without_gradient(run: Run) -> Run:
    def call() -> Tensor:
        with torch.no_grad():
            return run()

    return call


def with_gradient(net: Net, run: Run) -> Run:
    """Forward and backward; the value is the gradient of all weights in one vector."""

    def call() -> Tensor:
        net.zero_grad(set_to_none=True)
        (run() ** 2).sum().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    return call


def equal_error(net: Net, y0: Tensor, end: Tensor) -> float:
    """How much looser our tolerance may be for an error that is not above theirs, among powers of two."""
    with torch.no_grad():
        goal, loose = error(theirs(net, y0, False), end), 1.0
        while loose < 64 and error(ours(net, y0, False, "autograd", "solve", 2 * loose), end) <= goal:
            loose *= 2
    return loose


def cases(net: Net, y0: Tensor, call: str, loose: float) -> dict[str, tuple[Run, Run]]:
    """name -> (ours, theirs)."""

    def mine(rk4: bool, gradient: str = "autograd", loose: float = 1.0) -> Run:
        return lambda: ours(net, y0, rk4, gradient, call, loose)

    def peer(rk4: bool, odeint: Any = torchdiffeq.odeint) -> Run:
        return lambda: theirs(net, y0, rk4, odeint)

    def both(a: Run, b: Run) -> tuple[Run, Run]:
        return with_gradient(net, a), with_gradient(net, b)

    found = {
        "forward dopri5": (without_gradient(mine(False)), without_gradient(peer(False))),
        "forward rk4 x100": (without_gradient(mine(True)), without_gradient(peer(True))),
        "f+b dopri5, default against backprop": both(mine(False), peer(False)),
        "f+b dopri5, default against adjoint": both(mine(False), peer(False, torchdiffeq.odeint_adjoint)),
        "f+b rk4 x100, default against backprop": both(mine(True), peer(True)),
    }
    if call == "odeint":
        adjoints = mine(False, "adjoint"), peer(False, torchdiffeq.odeint_adjoint)
        return {**found, "f+b dopri5, adjoint against adjoint": both(*adjoints)}
    found = {name.replace("default", "autograd"): pair for name, pair in found.items()}
    found["forward dopri5, equal error"] = (without_gradient(mine(False, loose=loose)), without_gradient(peer(False)))
    found["f+b dopri5, autograd, equal error"] = both(mine(False, loose=loose), peer(False))
    found["f+b dopri5, autograd against adjoint, equal error"] = both(
        mine(False, loose=loose), peer(False, torchdiffeq.odeint_adjoint)
    )
    for rk4, name in ((False, "dopri5"), (True, "rk4 x100")):
        found[f"f+b {name}, discrete against backprop"] = both(mine(rk4, "discrete"), peer(rk4))
    return found


def exact(net: Net, y0: Tensor) -> tuple[Tensor, Tensor]:
    """y(2) and the gradient, in float64 at 1e-10."""
    fine = Net(y0.shape[-1]).double()
    fine.load_state_dict(net.state_dict())
    t = torch.tensor([0.0, END], dtype=torch.float64)
    y = torchdiffeq.odeint(fine, y0.double(), t, method="dopri8", rtol=1e-10, atol=1e-11)[-1]
    (y**2).sum().backward()
    return y.detach(), torch.cat([p.grad.flatten() for p in fine.parameters() if p.grad is not None])


def error(value: Tensor, reference: Tensor) -> float:
    return float((value.detach().double() - reference).norm() / reference.norm())


def compared(a: Run, b: Run, reference: Tensor, budget: float) -> dict[str, Any]:
    """Alternating runs for `budget` seconds, 5 pairs at least and 41 at most."""
    found = {"error ours": error(a(), reference), "error theirs": error(b(), reference)}
    times: tuple[list[float], list[float]] = ([], [])
    begin = time.perf_counter()
    gc.collect()
    gc.disable()
    while len(times[0]) < 5 or (time.perf_counter() - begin < budget and len(times[0]) < 41):
        order = ((0, a), (1, b)) if len(times[0]) % 2 == 0 else ((1, b), (0, a))
        for who, run in order:
            start = time.perf_counter()
            run()
            times[who].append(time.perf_counter() - start)
    gc.enable()
    mine, peer = (1e3 * statistics.median(t) for t in times)
    ratio = statistics.median(y / x for x, y in zip(*times))
    no_worse = found["error ours"] <= max(found["error theirs"], RTOL)
    return {**found, "no_worse": no_worse, "ms ours": mine, "ms theirs": peer, "ratio": ratio, "pairs": len(times[0])}


def problem(dim: int, batch: int) -> tuple[Net, Tensor]:
    torch.manual_seed(0)
    return Net(dim), torch.randn(batch, dim)


# -------------------------------------------------------------------------------------------------------- memory

MEMORY = ("torchdiffeq backprop", "ours autograd", "ours discrete")


def kilobytes(word: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(word)).split()[1])


def memory_of(who: str) -> None:
    """Print how far forward and backward of rk4 x100 at (64, 1024) lift the peak, in MB.

    A small run goes before, and a gradient with a given cotangent, for which torch imports a library of 26 MB once.
    """
    torch.set_num_threads(1)
    x = torch.ones(2, requires_grad=True)
    torch.autograd.grad(2 * x, x, torch.ones(2))
    for batch in (8, 1024):
        net, y0 = problem(64, batch)
        run: Run = lambda net=net, y0=y0: (  # noqa: E731
            theirs(net, y0, True) if who == MEMORY[0] else ours(net, y0, True, who.split()[1], "solve")
        )
        gc.collect()
        before = kilobytes("VmRSS")
        with_gradient(net, run)()
    print((kilobytes("VmHWM") - before) / 1024)


def memory() -> dict[str, float]:
    if not Path("/proc/self/status").exists():
        print("memory is measured where /proc/self/status exists")
        return {}
    found = {}
    for who in MEMORY:
        words = [sys.executable, __file__, "--memory-of", who]
        found[who] = float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        print(f"peak of f+b rk4 x100 at (64, 1024), {who:22} {found[who]:8.1f} MB", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--call", choices=("solve", "odeint"), default="solve")
    parser.add_argument("--cases", nargs="*", default=[f"{d},{b}" for d, b in SIZES], help="dim,batch")
    parser.add_argument("--budget", type=float, default=5.0, help="seconds for each comparison")
    parser.add_argument("--memory-of", choices=MEMORY, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.memory_of:
        return memory_of(given.memory_of)
    torch.set_num_threads(1)
    rows = []
    for size in given.cases:
        net, y0 = problem(*map(int, size.split(",")))
        end, slope = exact(net, y0)
        loose = equal_error(net, y0, end)
        for name, (a, b) in cases(net, y0, given.call, loose).items():
            row = compared(a, b, slope if name.startswith("f+b") else end, given.budget)
            rows.append({"size": size, "case": name, **row, **({"loose": loose} if "equal" in name else {})})
            print(f"({size:7}) {name:49} ours {row['ms ours']:8.2f} ms, theirs {row['ms theirs']:8.2f} ms, "
                  f"ratio {row['ratio']:5.2f}, errors {row['error ours']:.1e} {row['error theirs']:.1e}"
                  f"{'' if row['no_worse'] else '  WORSE'}", flush=True)  # fmt: skip
    save(f"peers-{given.call}", {"call": given.call, "rows": rows, "memory_MB": memory()})


if __name__ == "__main__":
    main()
