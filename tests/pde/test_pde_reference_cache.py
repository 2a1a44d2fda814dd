"""References are computed once, found again bit for bit, and never fail because of the disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from odenet.pde import reference
from odenet.pde.reference import REFERENCES, Recipe, Reference, cache


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ODENET_CACHE", str(tmp_path / "here"))
    return tmp_path / "here" / "references"


class Counted:
    """A recipe of u = a x with tables, and how often it was solved."""

    def __init__(self) -> None:
        self.levels: list[int] = []

    def recipe(self, a: float) -> Recipe:
        def solve(level: int) -> dict[str, torch.Tensor]:
            self.levels.append(level)
            return {"a": torch.tensor(a + 1e-3 * (1 - level), dtype=torch.float64)}

        return Recipe(lambda tables, x: tables["a"] * x, "a line", ((0.0,), (1.0,)), solve=solve)

    def make(self, a: float = 2.0, version: int = 1) -> Reference:
        return Reference("line", {"a": a}, version, self.recipe(a))


def test_nothing_is_computed_before_the_first_use_and_both_resolutions_at_it() -> None:
    count = Counted()
    line = count.make()
    assert count.levels == []
    x = torch.tensor([[0.5]], dtype=torch.float64)
    assert float(line(x)) == 1.0
    assert count.levels == [0, 1]
    assert line.error == pytest.approx(1e-3 / 2)
    assert line.largest == pytest.approx(1e-3 / 2, rel=1e-9)
    assert line.seconds >= 0


def test_a_second_reference_finds_the_first_ones_numbers(place: Path) -> None:
    count = Counted()
    x = torch.rand(5, 1, dtype=torch.float64)
    first, second = count.make(), count.make()
    assert torch.equal(first(x), second(x))
    assert (first.error, first.seconds) == (second.error, second.seconds)
    assert count.levels == [0, 1]
    assert len(list(place.iterdir())) == 1


def test_other_parameters_and_other_versions_are_other_files(place: Path) -> None:
    count = Counted()
    for line in (count.make(), count.make(3.0), count.make(version=2)):
        line.error  # noqa: B018
    assert count.levels == [0, 1] * 3
    assert len(list(place.iterdir())) == 3


def test_a_damaged_file_is_computed_again_and_replaced(place: Path) -> None:
    count = Counted()
    count.make().error  # noqa: B018
    (file,) = place.iterdir()
    good = file.read_bytes()
    assert good.count(b"2.0}") == 1  # the parameters are written in the file
    for bad in (b"", b"nonsense" * 10, good[: len(good) // 2], good.replace(b"2.0}", b"7.0}")):
        file.write_bytes(bad)
        assert count.make().error == pytest.approx(5e-4)
    assert count.levels == [0, 1] * 5
    assert cache.read(file, count.make()._inputs) is not None


def test_a_folder_that_cannot_be_made_costs_only_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ODENET_CACHE", str(tmp_path / "file"))
    count = Counted()
    assert count.make().error == pytest.approx(5e-4)
    assert count.make().error == pytest.approx(5e-4)
    assert count.levels == [0, 1, 0, 1]


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_costs_only_the_cache(place: Path) -> None:
    place.mkdir(parents=True)
    place.chmod(0o500)
    assert Counted().make().error == pytest.approx(5e-4)
    assert list(place.iterdir()) == []


def test_a_failed_write_leaves_no_file_behind(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(cache.os, "fsync", full)
    assert Counted().make().error == pytest.approx(5e-4)
    assert list(place.iterdir()) == []


def test_without_the_variable_the_cache_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ODENET_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert reference.folder() == tmp_path / ".cache" / "odenet" / "references"


def test_a_closed_form_needs_no_disk(place: Path) -> None:
    assert reference.wave().error < 1e-15
    assert not place.exists()


@pytest.mark.parametrize("name", REFERENCES.names())
def test_every_reference_states_how_it_is_made_and_where_it_lives(name: str) -> None:
    ours = reference.get(name)
    assert ours.name == name
    assert ours.how[0].isupper() or ours.how[0].isdigit()
    assert not ours.how.endswith(".")
    assert len(ours.columns) >= 1
    x = ours.points(7)
    assert x.shape == (7, ours.dim)
    assert x.dtype == torch.float64
    assert torch.equal(x, ours.points(7))


def test_the_names_are_listed_and_each_is_a_function_of_the_package() -> None:
    assert {"burgers", "allen_cahn", "allen_cahn_periodic", "kdv", "schrodinger", "ks", "l_shape"} <= set(
        reference.names()
    )
    assert all(getattr(reference, name) is REFERENCES.get(name) for name in reference.names())
