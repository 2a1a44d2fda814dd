"""What a data set asks of a network: supervised problems from names, tensors, data sets and loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..data import Dataset, load
from ..errors import BadInput
from ..problem import Problem

Pair = tuple[Tensor, Tensor]
LossFunction = Callable[[Tensor, Tensor], Tensor]


class Supervised(Problem):
    """Inputs x (n, ...) with targets y: labels (n,) or (n, T) in int64, or real targets (n, D).

    Batches are drawn without replacement inside a batch, from the generator alone, so a run can be repeated from any
    step. The loss is cross-entropy for labels and mean squares otherwise, unless given.
    held_out names the part that `score` looks at: "test", or "train" when there is none.
    """

    def __init__(
        self,
        train: Pair,
        validation: Pair | None = None,
        test: Pair | None = None,
        loss: LossFunction | None = None,
    ) -> None:
        for name, part in (("training", train), ("validation", validation), ("test", test)):
            _check_pair(name, part)
        self.train, self.validation, self.test = train, validation, test
        self.labels = not train[1].is_floating_point()
        self.loss = loss or (_cross_entropy if self.labels else _mean_squares)
        self.held_out = "test" if test is not None else "train"

    def sample(self, n: int, generator: torch.Generator) -> Pair:
        x, y = self.train
        if n >= len(x):
            return x, y
        if len(x) <= 100_000:
            index = torch.randperm(len(x), generator=generator)[:n]
        else:
            index = torch.randint(len(x), (n,), generator=generator)
        index = index.to(x.device)
        return x[index], y[index]

    def losses(self, model: nn.Module, batch: Pair) -> dict[str, Tensor]:
        x, y = batch
        return {"data": self.loss(model(x), y)}

    def score(self, model: nn.Module) -> dict[str, float]:
        part = self.test if self.test is not None else self.train
        return self.measure(model, part)

    def measure(self, model: nn.Module, part: Pair) -> dict[str, float]:
        """Accuracy (labels) or mean squared error and r2 (real targets), and the loss, on a part of the data."""
        out, y = predict(model, part[0]), part[1]
        result = {"loss": float(self.loss(out, y))}
        if self.labels:
            guess = out.argmax(-1) if out.shape[-1] > 1 else (out.squeeze(-1) > 0).long()
            right = (guess == y) & torch.isfinite(out).all(-1)  # argmax of nan is class 0, which is no answer
            return {"accuracy": float(right.double().mean()), **result}
        error = float(((out - y) ** 2).double().mean())
        spread = float(((y - y.mean(0)) ** 2).double().mean())
        return {"mse": error, "r2": 1.0 - error / spread if spread > 0 else float("nan"), **result}

    def to(self, device: Any, dtype: torch.dtype | None) -> Supervised:
        """On a device and, for floating-point data, in a dtype."""

        def move(part: Pair | None) -> Pair | None:
            return part and tuple(v.to(device, dtype if v.is_floating_point() else v.dtype) for v in part)  # type: ignore[return-value]

        return Supervised(move(self.train), move(self.validation), move(self.test), self.loss)  # type: ignore[arg-type]


class Streamed(Problem):
    """Batches from a DataLoader, started again when it ends; scored on `test`, else on one pass of the loader."""

    def __init__(
        self,
        loader: Iterable[Pair],
        test: Any = None,
        loss: LossFunction | None = None,
        validation: Pair | None = None,
    ) -> None:
        _check_pair("validation", validation)
        self.loader, self._loss, self.validation = loader, loss, validation
        self.held_out = "test" if test is not None else "train"
        self._test = test
        self._stream: Iterator[Pair] = iter(())
        self._device: Any = None
        self._dtype: torch.dtype | None = None

    def sample(self, n: int, generator: torch.Generator) -> Pair:
        batch = next(self._stream, None)
        if batch is None:
            self._stream = iter(self.loader)
            batch = next(self._stream, None)
        if batch is None:
            raise BadInput("the DataLoader is empty; give one with at least one batch.")
        return self._moved(batch)

    def losses(self, model: nn.Module, batch: Pair) -> dict[str, Tensor]:
        return Supervised(batch, loss=self._loss).losses(model, batch)

    def score(self, model: nn.Module) -> dict[str, float]:
        given = self._test if self._test is not None else self.loader
        parts = [self._moved(b) for b in (given if isinstance(given, DataLoader) else [given])]
        whole = tuple(torch.cat(v) for v in zip(*parts))
        return self.measure(model, whole)  # type: ignore[arg-type]

    def measure(self, model: nn.Module, part: Pair) -> dict[str, float]:
        """As of `Supervised`."""
        return Supervised(self._moved(part), loss=self._loss).score(model)

    def to(self, device: Any, dtype: torch.dtype | None) -> Streamed:
        """Batches are moved as they come."""
        self._device, self._dtype = device, dtype
        return self

    def _moved(self, batch: Any) -> Pair:
        _check_pair("batch", batch)
        x, y = batch
        return x.to(self._device, self._dtype), y.to(self._device, self._dtype if y.is_floating_point() else None)


def resolve(data: Any, *, loss: Any, validation: Any, test: Any, holdout: float, seed: int) -> Any:
    """A Problem from a data set's name, a Dataset, a Problem, a DataLoader or tensors (x, y)."""
    from . import losses

    function = losses.get(loss) if isinstance(loss, str) else loss
    if isinstance(data, Problem):
        if not (loss is None and validation is None and test is None):
            raise BadInput("a Problem brings its own losses and score; leave out loss=, validation= and test=.")
        return data
    if isinstance(data, str):
        data = load(data, seed=seed)
    if isinstance(data, Dataset):
        given = validation if validation is not None else (data.x_val, data.y_val)
        held = test if test is not None else (data.x_test, data.y_test)
        return Supervised((data.x, data.y), given, held, function)
    if isinstance(data, DataLoader):
        return Streamed(data, test, function, validation)
    if isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(v, Tensor) for v in data):
        x, y = data
        _check_pair("training", (x, y))
        if test is None and holdout > 0:
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
            cut = max(1, round(holdout * len(x)))
            test, x, y = (x[order[:cut]], y[order[:cut]]), x[order[cut:]], y[order[cut:]]
        return Supervised((x, y), validation, test, function)
    raise BadInput(
        f"data is a data set's name, a Dataset, a Problem, a DataLoader or tensors (x, y); got {type(data).__name__}."
    )


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, chunk: int = 4096) -> Tensor:
    """model(x) in evaluation mode, in chunks, without a graph."""
    was = model.training
    model.eval()
    try:
        return torch.cat([model(part) for part in x.split(chunk)])
    finally:
        model.train(was)


def _check_pair(name: str, part: Pair | None) -> None:
    if part is None:
        return
    if not (isinstance(part, tuple | list) and len(part) == 2 and all(isinstance(v, Tensor) for v in part)):
        raise BadInput(f"the {name} data is a pair of tensors (x, y), got {type(part).__name__}.")
    x, y = part
    if x.dim() == 0 or y.dim() == 0 or len(x) != len(y) or len(x) == 0:
        raise BadInput(
            f"the {name} data has inputs of shape {tuple(x.shape)} and targets of shape {tuple(y.shape)}; they must be "
            "as many, and not none."
        )
    for what, v in (("inputs", x), ("targets", y)):
        if v.is_floating_point() and not bool(torch.isfinite(v).all()):
            raise BadInput(f"the {name} {what} hold NaN or infinite numbers; remove or replace them before training.")


def _cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    if out.shape[:-1] != y.shape:
        raise BadInput(
            f"the net gives {tuple(out.shape)} for labels of shape {tuple(y.shape)}; it should give a score per class "
            f"on a last axis, {(*y.shape, 'classes')}."
        )
    try:
        return nn.functional.cross_entropy(out.flatten(0, -2), y.flatten().long())
    except IndexError:
        raise BadInput(
            f"the labels go from {int(y.min())} to {int(y.max())}, but the net gives {out.shape[-1]} scores, for the "
            f"classes 0 to {out.shape[-1] - 1}; write dim_out={int(y.max()) + 1}, or number the classes from 0."
        ) from None


def _mean_squares(out: Tensor, y: Tensor) -> Tensor:
    if out.shape != y.shape:
        raise BadInput(f"the net gives {tuple(out.shape)} for targets of shape {tuple(y.shape)}; they must agree.")
    return nn.functional.mse_loss(out, y)
