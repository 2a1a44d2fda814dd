"""DeepXDE at a problem of the PDE bench, for a number of seconds, scored like our own methods.

    python -m odenet.experiment.deepxde_peer burgers --seconds 60 --seed 0 --variant tuned

prints one line of JSON: rel_l2, seconds, loss, iterations of each optimiser, and the curve of error over seconds.

stock   settings of the package's examples, float32: Adam for 40 % of the seconds, then L-BFGS until it stops
tuned   float64, conditions by construction, more points: Adam for 20 %, L-BFGS up to 80 %, then NNCG, with a smaller
        preconditioner where it breaks off, and L-BFGS again where it does so twice or a step would take too long; the
        weights of least loss are the answer

The package is no dependency: it is used where it can be imported, or where ODENET_DEEPXDE_PATH names the folder that it
was installed into (`pip install --target FOLDER deepxde`). A process of its own keeps its global settings away from us.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..errors import BadInput, Incompatible, OdenetError
from .deepxde_problems import STATEMENTS, Setting, Soft, Statement

WHERE = "ODENET_DEEPXDE_PATH"
PLANS = {  # optimisers, and the share of the seconds at which each ends
    "stock": (("adam", 0.4), ("L-BFGS", 1.0)),
    "tuned": (("adam", 0.2), ("L-BFGS", 0.8), ("NNCG", 1.0), ("NNCG", 1.0), ("L-BFGS", 1.0)),
}
VARIANTS = tuple(PLANS)
NNCG_LEAST = 70  # products with the Hessian of the shortest step: 50 for the preconditioner
ENDLESS = 10**9
ABSENT = (
    "DeepXDE is not installed here; install it beside (pip install --target FOLDER deepxde) "
    f"and name the folder in {WHERE}."
)


# ---- seen from the bench ---------------------------------------------------------------------------------------------


def installed() -> bool:
    """Whether DeepXDE can be imported here or lies in the folder that ODENET_DEEPXDE_PATH names."""
    folder = os.environ.get(WHERE)
    return bool(folder and (Path(folder) / "deepxde").is_dir()) or importlib.util.find_spec("deepxde") is not None


def run(
    name: str, arguments: Mapping[str, Any], seconds: float, seed: int, variant: str, changes: Mapping[str, Any] = {}
) -> dict[str, Any]:
    """What a process of its own printed, with as many threads as here; changes: of the variant's settings.

    Raises Incompatible where DeepXDE is not installed or fails.
    """
    if not installed():
        raise Incompatible(ABSENT)
    threads = str(torch.get_num_threads())
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    words = ["--seconds", f"{seconds}", "--seed", f"{seed}", "--variant", variant, "--arguments", json.dumps(arguments)]
    words += ["--settings", json.dumps(changes)] if changes else []
    environment = {
        **os.environ, "DDE_BACKEND": "pytorch", "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads,
    }  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, name, *words], capture_output=True, text=True, env=environment,
            timeout=10 * seconds + 600,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Incompatible(f"DeepXDE at {name} did not end within ten times its {seconds:g} s.") from None
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode or not lines:
        raise Incompatible(f"DeepXDE at {name} failed: {lines[-1] if lines else 'it said nothing'}")
    return json.loads(lines[-1])


# ---- in a process of its own -----------------------------------------------------------------------------------------


@dataclass
class Watch:
    """The clock, without what is not training, and what was seen on the way.

    ends: used seconds at which the phase under way stops; aside: processor seconds of what is not training; broken: why
    NNCG broke off
    """

    seconds: float
    model: Any
    error: Callable[[], float | None]
    ends: float = 0.0
    spent: float = 0.0
    aside: float = 0.0
    broken: str = ""
    since: float = field(default_factory=time.perf_counter)
    curve: list[tuple[float, float | None]] = field(default_factory=list)
    best: tuple[float, dict[str, Any]] | None = None
    _next: float = 0.0
    _before: tuple[float, int] = (0.0, -1)

    @property
    def used(self) -> float:
        """Seconds spent on training."""
        return self.spent + time.perf_counter() - self.since

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here is not counted."""
        self.spent, cpu = self.used, time.process_time()
        try:
            yield
        finally:
            self.since = time.perf_counter()
            self.aside += time.process_time() - cpu

    def begin(self, share: float) -> None:
        """A phase that ends at this share of all seconds."""
        self.ends, self._before = share * self.seconds, (self.used, -1)

    def look(self) -> None:
        """After every step: the error now and then; stop where another would end too late, or this one led nowhere."""
        used, done = self.used, self.model.train_state.iteration
        if used >= self._next:
            with self.paused():
                self.curve.append((used, self.error()))
            self._next = max(1.1 * used, used + self.seconds / 60)
        last, before = self._before
        if used + (used - last) / 2 >= self.ends or done == before:
            self.model.stop_training = True
        self._before = (self.used, done)

    def tested(self) -> None:
        """After the package has computed its losses: keep the weights if they are the best so far."""
        loss = float(sum(self.model.train_state.loss_train))
        if math.isfinite(loss) and (self.best is None or loss < self.best[0]):
            self.best = loss, {k: v.detach().clone() for k, v in self.model.net.state_dict().items()}


def solved(
    name: str, arguments: Mapping[str, Any], seconds: float, seed: int, variant: str, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Train, and say what came of it. Raises BadInput, Incompatible."""
    statement = _statement(name, arguments)
    setting = _changed(statement.stock if variant == "stock" else statement.tuned, changes)
    if not installed():
        raise Incompatible(ABSENT)
    os.environ["DDE_BACKEND"] = "pytorch"
    sys.path += [folder for folder in (os.environ.get(WHERE),) if folder]  # last: our own torch goes before another
    import deepxde as dde

    from .. import pde
    from ..pde.solution import relative_error

    problem = pde.get(name, **arguments)
    problem.truth(problem.domain.bounds)
    dde.config.set_default_float("float64" if variant == "tuned" else "float32")
    dde.config.set_random_seed(seed)
    model = _model(dde, statement, setting)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # what torch imports at the first use is not training

    def error(n: int = 2000) -> float | None:
        return _number(relative_error(problem, lambda x: torch.as_tensor(model.predict(x.numpy())).double(), n))

    watch, cpu = Watch(seconds, model, error), time.process_time()
    iterations = _trained(dde, model, setting, variant, watch)
    used = watch.used
    cpu = time.process_time() - cpu - watch.aside
    if variant == "tuned" and watch.best is not None:
        model.net.load_state_dict(watch.best[1])
    loss = watch.best[0] if variant == "tuned" and watch.best else float(sum(model.train_state.loss_train))
    final = error(20_000)
    return {
        "name": name, "arguments": dict(arguments), "variant": variant, "seed": seed, "rel_l2": final,
        "seconds": used, "processor": cpu, "loss": _number(loss), "iterations": iterations,
        "curve": [*watch.curve, (used, final)], "settings": _told(setting, variant, model, dde),
        "broken": watch.broken,
        "deepxde": dde.__version__, "threads": torch.get_num_threads(),
    }  # fmt: skip


def _number(value: float | None) -> float | None:
    """A number that JSON knows."""
    return value if value is not None and math.isfinite(value) else None


def _statement(name: str, arguments: Mapping[str, Any]) -> Statement:
    if name not in STATEMENTS:
        raise BadInput(f"DeepXDE is set up for {', '.join(sorted(STATEMENTS))}; got {name!r}.")
    try:
        return STATEMENTS[name](**arguments)
    except TypeError:
        raise BadInput(f"DeepXDE's {name} is not set up for the arguments {json.dumps(dict(arguments))}.") from None


def _changed(setting: Setting, changes: Mapping[str, Any]) -> Setting:
    known = [f.name for f in fields(setting)]
    for word in changes:
        if word not in known:
            raise BadInput(f"a setting of DeepXDE has no {word!r}; it has: {', '.join(known)}.")
    return replace(setting, **changes)


def _told(setting: Setting, variant: str, model: Any, dde: Any) -> dict[str, Any]:
    """The settings as JSON: of functions only whether they are there."""
    plain = {k: v for k, v in asdict(setting).items() if isinstance(v, str | int | float)}
    return {
        **plain, "weights": model.loss_weights, "float": dde.config.default_float(), "plan": PLANS[variant],
        "hard": setting.transform is not None, "features": setting.features is not None,
        "weights of the net": model.net.num_trainable_parameters(),
    }  # fmt: skip


# ---- problem and net -------------------------------------------------------------------------------------------------


def _model(dde: Any, statement: Statement, setting: Setting) -> Any:
    import numpy as np

    geometry, timed = _geometry(dde, statement)
    counts = {"num_domain": setting.points, "num_boundary": setting.boundary}
    if timed:
        counts["num_initial"] = setting.initial
    data = (dde.data.TimePDE if timed else dde.data.PDE)(
        geometry,
        lambda x, y: statement.residuals(dde.grad, x, y),
        [_condition(dde, geometry, soft) for soft in setting.soft],
        **counts,
        train_distribution=setting.distribution,
    )
    for name in ("train_x_all", "train_x_bc", "train_x", "test_x"):  # float64 on a Polygon, whatever the default float
        setattr(data, name, getattr(data, name).astype(dde.config.real(np), copy=False))
    wide = geometry.dim if setting.features is None else setting.features[1]
    sizes = [wide, *[setting.width] * setting.depth, statement.unknowns]
    net = dde.nn.FNN(sizes, setting.activation, setting.initializer)
    if setting.features is not None:
        net.apply_feature_transform(setting.features[0])
    if setting.transform is not None:
        net.apply_output_transform(setting.transform)
    return dde.Model(data, net)


def _geometry(dde: Any, statement: Statement) -> tuple[Any, bool]:
    lower, upper = (list(side) for side in statement.box)
    if statement.corners:
        space = dde.geometry.Polygon([list(c) for c in statement.corners])
    elif len(lower) == 1:
        space = dde.geometry.Interval(lower[0], upper[0])
    else:
        space = dde.geometry.Hypercube(lower, upper) if len(lower) > 2 else dde.geometry.Rectangle(lower, upper)
    if statement.final is None:
        return space, False
    return dde.geometry.GeometryXTime(space, dde.geometry.TimeDomain(0, statement.final)), True


def _condition(dde: Any, geometry: Any, soft: Soft) -> Any:
    def there(_: Any, on: bool) -> bool:
        return on

    def f(x: Any) -> Any:
        assert soft.f is not None
        return soft.f(*torch.as_tensor(x).split(1, 1))

    if soft.kind == "value":
        return dde.icbc.DirichletBC(geometry, f, there, component=soft.component)
    if soft.kind == "initial":
        return dde.icbc.IC(geometry, f, there, component=soft.component)
    if soft.kind == "periodic":
        return dde.icbc.PeriodicBC(geometry, 0, there, derivative_order=soft.order, component=soft.component)
    return dde.icbc.OperatorBC(
        geometry, lambda x, y, _: dde.grad.jacobian(y, x, i=0, j=1), lambda x, _: dde.utils.isclose(x[1], 0)
    )


# ---- training --------------------------------------------------------------------------------------------------------


def _trained(dde: Any, model: Any, setting: Setting, variant: str, watch: Watch) -> dict[str, int]:
    """Adam, L-BFGS and, tuned, NNCG, each until its share of the seconds is used; steps of each."""
    follower = dde.callbacks.Callback()
    follower.on_epoch_end = watch.look
    inner = model._test

    def off_the_clock(verbose: int = 0) -> None:
        with watch.paused():
            inner(verbose=0)
            watch.tested()

    model._test = off_the_clock
    steps: dict[str, int] = {}
    weights, pace, seconds = _weights(model, setting), 0.0, watch.seconds
    watch.spent, watch.best, watch.since = 0.0, None, time.perf_counter()
    for optimiser, share in PLANS[variant]:
        before, began = model.train_state.iteration, watch.used
        rest = share * seconds - began
        if rest < seconds / 50 or (optimiser == "NNCG" and rest < 2 * pace * NNCG_LEAST):
            continue
        if optimiser != "adam":
            _options(dde, optimiser, setting, variant, pace, rest, 10 if watch.broken else 50)
        words: dict[str, Any] = {"lr": setting.rate, "decay": setting.decay} if optimiser == "adam" else {}
        model.compile(optimiser, loss_weights=weights, verbose=0, **words)
        watch.begin(share)
        extra = [dde.callbacks.PDEPointResampler(period=1)] if setting.resampled and optimiser == "adam" else []
        every = 1 if optimiser == "NNCG" else ENDLESS
        try:
            model.train(iterations=ENDLESS, display_every=every, callbacks=[*extra, follower], verbose=0)
        except torch.linalg.LinAlgError as failure:  # the preconditioner of NNCG, where the Hessian is indefinite
            if watch.best is None:
                raise
            model.net.load_state_dict(watch.best[1])
            watch.broken = str(failure)
        done = model.train_state.iteration - before
        steps[optimiser] = steps.get(optimiser, 0) + done
        pace = (watch.used - began) / max(1, done)
    off_the_clock()
    return steps


def _weights(model: Any, setting: Setting) -> list[float] | None:
    if setting.weights is None:
        return None
    if setting.weights != "initial":
        return [float(w) for w in setting.weights]
    model.compile("adam", lr=setting.rate, verbose=0)
    history, _ = model.train(iterations=0, verbose=0)
    return [5 / float(loss) for loss in history.loss_train[0]]


def _options(dde: Any, optimiser: str, setting: Setting, variant: str, pace: float, rest: float, rank: int) -> None:
    """Steps between two looks at the clock: a fiftieth of the time left, in L-BFGS the package's 1000 at most.

    pace: seconds of a step before this one; a product with the Hessian takes about twice as long
    """
    affordable = rest / 50 / max(pace, 1e-6)
    if optimiser == "NNCG":
        products = int(min(max(affordable, 20), 1000))
        dde.optimizers.set_NNCG_options(rank=rank, mu=setting.damping, cgmaxiter=products)
        return
    never = {} if variant == "stock" else {"gtol": 0.0, "maxiter": ENDLESS}
    dde.optimizers.set_LBFGS_options(maxcor=setting.memory, **never)
    options = dde.optimizers.config.LBFGS_options
    options["iter_per_step"] = int(min(max(affordable, 10), 1000))
    options["fun_per_step"] = int(1.25 * options["iter_per_step"]) + 60


def main(words: list[str] | None = None) -> int:
    """The command of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="problem of odenet.pde")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variant", choices=VARIANTS, default="stock")
    parser.add_argument("--arguments", type=json.loads, default={}, help="of the problem, as JSON")
    parser.add_argument("--settings", type=json.loads, default={}, help="changed ones, as JSON")
    given = parser.parse_args(words)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = solved(given.name, given.arguments, given.seconds, given.seed, given.variant, given.settings)
    except OdenetError as problem:
        print(f"odenet: {problem}", file=sys.stderr)
        return 2
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
