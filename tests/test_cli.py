from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest

import odenet as on
import prepared
from odenet.cli import main
from odenet.fields.testset import IVPS

SMALL = [
    "--data", "moons", "--nets", "resnet", "mlp", "--integrators", "euler", "--seeds", "2", "--width", "4",
    "--steps", "2", "--train-steps", "3", "--lr", "0.01", "--spans", "1", "--batch", "16", "--no-theory",
    "--workers", "1",
]  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", [["--help"], [], ["--version"], ["compare", "--help"], ["list", "--help"]])
def test_help_does_not_wait_for_torch(words: list[str]) -> None:
    code = f"import sys\nfrom odenet.cli import main\nassert main({words!r}) == 0 and 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "odenet" in done.stdout


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "odenet", "pde"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "kind", ["integrators", "nets", "fields", "problems", "data", "pdes", "methods", "pde_methods"]
)
def test_list_prints_the_names_of_the_registry(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    if kind == "problems":
        names = list(IVPS)
    else:
        names = (
            {"pdes": on.pde, "methods": on.train, "pde_methods": on.pde.METHODS}.get(kind) or getattr(on, kind)
        ).names()
    assert capsys.readouterr().out.split() == names


@pytest.mark.parametrize("kind", ["nets", "fields", "data", "train"])
def test_show_says_something_about_every_name_there_is(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in getattr(on, kind).names():
        assert main(["show", name]) == 0, name
        out = capsys.readouterr().out
        assert out.startswith(name) and len(out.splitlines()) > 1, name


def test_show_prints_the_facts_of_a_scheme(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "rk4"]) == 0
    out = capsys.readouterr().out
    # Hairer & Wanner: the real interval of rk4 is 2.785, its imaginary one 2 sqrt 2
    assert "order:       4" in out and "-2.785" in out and "2.828" in out and "Kutta" in out


def test_show_tells_of_a_problem_its_size_interval_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    for name, problem in IVPS.items():
        assert main(["show", name]) == 0
        out = capsys.readouterr().out
        assert f"{name} (problem)\n" in out and f"size:        {len(problem.y0)} equation" in out
        assert f"stiff:       {'yes' if problem.stiff else 'no'}" in out and "cite: " in out
        assert max(map(len, out.splitlines())) <= 100


def test_a_name_of_two_kinds_is_shown_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "momentum"]) == 0
    assert "momentum (integrator)" in (out := capsys.readouterr().out) and "momentum (net)" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cmpare"], "there is no command 'cmpare'; did you mean 'compare'?"),
        (["show", "rk5"], "nothing is called 'rk5'; did you mean"),
        (["list", "integratrs"], "invalid choice 'integratrs'"),
        (["list"], "Missing from odenet list"),
        (["pde", "burgers", "--method", "x"], "no PDE method is called 'x'"),
        (["pde", "burger"], "no PDE problem is called 'burger'; did you mean 'burgers'"),
        (["pde", "burgers", "--method", "gauss_newton", "--set", "wdth=3"], "no option 'wdth'; did you mean 'width'?"),
        (["pde", "burgers", "--problem", "mu=3"], "the problem 'burgers' has no parameter 'mu'; it has: nu."),
        (["pde", "burgers", "--set", "width"], "'width' cannot be read; write KEY=VALUE, such as width=32."),
        (["pde", "math:pi"], "'math:pi' is no PDE problem but float"),
        (["check", "a:b"], "'a:b' cannot be imported: ModuleNotFoundError: No module named 'a'."),
        (["check", "rk5"], "nothing to check is called 'rk5'; write a registered name or package.module:Object."),
        (
            ["check", "mine.py:Rk5"],
            "'mine.py:Rk5' names a file; write the module that python imports, such as mine:Rk5",
        ),
        (["check", "math:Rk5"], "'math:Rk5' cannot be imported: AttributeError: module 'math' has no attribute 'Rk5'."),
        (["check", "math:pi"], "float is no integrator, coefficients, field, gradient or depth"),
        (["check", "odenet.integrators:Integrator"], "Integrator() raises TypeError: Can't instantiate abstract class"),
        (["papers", "run", "x"], "no reproduction is called 'x'; known: 20"),
        (["resume", "x"], "x is no folder of odenet pde: run.json is missing"),
        (["compare", "--nets", "resnt"], "no net is called 'resnt'; did you mean 'resnet'"),
        (["compare", "--integrators", "rkf"], "no integrator is called 'rkf'"),
        (["compare", "--data", "diigts"], "no data set is called 'diigts'; did you mean 'digits'"),
        (["compare", "--data", "./nowhere"], "there is no data folder"),
        (["compare", "--steps", "-3"], "steps is a positive whole number, got -3"),
        (["compare", "--seeds", "abc"], "--seeds: invalid literal"),
        (["compare", "--sedes", "3"], "Unrecognized options: --sedes, 3; did you mean --seeds INT?"),
        (["compare", "--lr", "0"], "lr is a list of positive numbers"),
        (["compare", "--nets", "lstm"], "net 'lstm' takes a sequence"),
        (["compare", "--nets", "hamiltonian", "--width", "5"], "width"),
        (["compare", "--nets", "resnet", "--integrators", "verlet"], "'verlet' needs a separable field"),
        (["compare", "--name", "../x"], "run name '../x' is not usable"),
        (["compare", "--config", "none.toml"], "the config none.toml cannot be read"),
        (["report", "nowhere"], "nowhere is not a run folder"),
        (["stability", "nowhere"], "nowhere is not a run folder"),
        (["bench"], "Missing from odenet bench"),
        (["bench", "solver"], "invalid choice 'solver'"),
        (
            ["bench", "solvers", "--problems", "hirse"],
            "no problem of the test set is called 'hirse'; did you mean 'hires'?",
        ),
        (["bench", "solvers", "--problems", "nowhere:x"], "'nowhere:x' cannot be imported"),
        (["bench", "solvers", "--problems", "math:pi"], "InitialValueProblem, got float"),
        (["bench", "solvers", "--problems", "e2", "e2"], "two problems are called 'e2'"),
        (["bench", "solvers", "--methods", "doppri5"], "no method is called 'doppri5'; did you mean 'dopri5'"),
        (["bench", "solvers", "--methods", "scipy:Radu"], "did you mean 'scipy:Radau'"),
        (["bench", "solvers", "--tolerances", "1e-3", "-1e-6"], "a tolerance lies between 0 and 1, got -1e-06"),
        (["bench", "solvers", "--tolerances", "nan"], "a tolerance lies between 0 and 1, got nan"),
        (["bench", "solvers", "--steps", "0"], "steps are positive whole numbers, got 0"),
        (["bench", "solvers", "--repeats", "0"], "repeats is a positive number, got 0"),
        (["bench", "solvers", "--seconds", "-1"], "seconds is a positive number, got -1"),
        (["bench", "solvers", "--name", "../x"], "run name '../x' is not usable"),
        (["bench", "solvers", "--problems"], "a bench needs problems and methods"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], sentence: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert err.startswith("odenet: ") and err.count("\n") == 1 and sentence in err and out == ""
    assert not any(here.iterdir())


def test_a_config_with_an_unknown_key_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "e.toml").write_text("sedes = 3\n")
    assert main(["compare", "--config", "e.toml"]) == 2
    assert capsys.readouterr().err == "odenet: an experiment has no entry 'sedes'; did you mean 'seeds'?\n"
    assert [p.name for p in here.iterdir()] == ["e.toml"]


def test_a_data_folder_without_data_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "images").mkdir()
    (here / "images" / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03 torn")
    assert main(["compare", "--data", "./images", "--nets", "mlp"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("odenet: ") and err.count("\n") == 1 and "images" in err
    assert not (here / "runs").exists()


def test_compare_writes_a_run_and_the_other_commands_read_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *SMALL, "--name", "r"]) == 0
    out, err = capsys.readouterr()
    assert "no difference detectable" in out and out.rstrip().endswith("runs/r/report.html") and "[2/2]" in err
    run = here / "runs" / "r"
    kept = files(run)
    assert {"spec.json", "results.json", "results.csv", "results.jsonl", "table.tex", "report.html"} <= kept.keys()

    assert main(["compare", *SMALL, "--name", "r"]) == 2
    assert "exists already and is left as it is" in capsys.readouterr().err and files(run) == kept

    (run / "report.html").unlink()
    assert main(["report", "runs/r"]) == 0
    assert files(run) == kept and "resnet" in capsys.readouterr().out

    assert main(["compare", *SMALL, "--name", "r", "--resume"]) == 0
    capsys.readouterr()
    assert main(["stability", "runs/r", "--integrators", "euler", "--quick", "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "resnet/euler: " in out and "mlp: " in out
    assert (run / "stability" / "resnet-euler" / "report.json").is_file()


def test_flags_win_over_the_config(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "e.toml").write_text(
        'data = "moons"\nnets = ["mlp", "resnet"]\nseeds = 1\nlr = [0.01]\n'
        "theory = false\nworkers = 1\ntrain_steps = 2\n"
    )
    assert main(["compare", "--config=e.toml", "--nets", "mlp", "--name", "c"]) == 0
    lines = (here / "runs" / "c" / "results.csv").read_text().splitlines()
    assert len(lines) == 2 and lines[1].startswith("mlp,-,0,")


def test_a_run_without_nets_has_no_stability_to_report(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    on.experiment.Experiment(name="r").settled()
    (here / "r" / "nets").mkdir(parents=True)
    (here / "r" / "spec.json").write_text(on.experiment.Experiment().to_json())
    assert main(["stability", "r"]) == 2
    assert "has finished no nets" in capsys.readouterr().err


def test_an_interrupted_command_says_how_to_go_on(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*args: object, **words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("odenet.experiment.compare.execute", stopped)
    assert main(["compare", *SMALL, "--name", "r"]) == 130
    assert "--resume" in capsys.readouterr().err


def test_a_plug_in_of_three_lines_is_compared_though_workers_do_not_know_it(here: Path) -> None:
    script = here / "mine.py"
    script.write_text(
        "import odenet as on\n"
        'on.integrators.register("my_rk2", on.Tableau(a=("", "3/4"), b="1/3 2/3", order=2))\n'
        'on.compare(data="moons", nets=["resnet"], integrators=["my_rk2", "euler"], seeds=1, width=4, steps=2,\n'
        '           train_steps=2, lr=[0.01], spans=[1.0], theory=False, workers=2).save("kept")\n'
    )
    status, _, errors = prepared.run(script, here, {}, 120)
    assert status == 0, errors
    assert (
        "my_rk2" in (here / "kept" / "results.csv").read_text()
        and "my_rk2" in (here / "kept" / "report.html").read_text()
    )


BENCH = ["bench", "solvers", "--tolerances", "1e-4", "1e-6", "--steps", "20", "--repeats", "1"]
MINE = """
from odenet.fields.testset import InitialValueProblem

decay = InitialValueProblem(
    name="decay", f=lambda t, y: -y, y0=(1.0,), t1=1.0, reference=(0.36787944117144233,), cite="", doc=""
)
unknown = InitialValueProblem(name="unknown", f=lambda t, y: -y, y0=(1.0,), t1=1.0, cite="", doc="")
short = InitialValueProblem(name="short", f=lambda t, y: -y, y0=(1.0, 2.0), t1=1.0, reference=(0.3,), cite="", doc="")
"""


@pytest.fixture
def mine(here: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with problems of a user's own in the current folder."""
    (here / "my_problems.py").write_text(MINE)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "my_problems", raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return "my_problems"


def test_bench_solvers_writes_tables_and_figures_of_a_named_problem_and_one_of_mine(
    here: Path, mine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = ["dopri5", "rk4", "torchdiffeq:dopri5", "torchdiffeq:rk4", "scipy:Radau"]
    assert main([*BENCH, "--problems", "a1", f"{mine}:decay", "--methods", *methods, "--name", "r"]) == 0
    out, err = capsys.readouterr()
    assert out.rstrip().endswith("runs/r") and "[16/16]" in err
    kept = files(here / "runs" / "r")
    figures = {f"work_precision_{p}.{kind}" for p in ("a1", "decay") for kind in ("png", "svg", "pdf", "csv")}
    assert kept.keys() == figures | {f"work_precision.{kind}" for kind in ("csv", "json", "txt")}
    rows = list(csv.DictReader(io.StringIO(kept["work_precision.csv"].decode())))
    assert [r["method"] for r in rows if r["problem"] == "decay"] == [
        "dopri5", "dopri5", "rk4", "torchdiffeq:dopri5", "torchdiffeq:dopri5", "torchdiffeq:rk4", "scipy:Radau",
        "scipy:Radau",
    ]  # fmt: skip
    assert all(float(r["error"]) < 1e-3 and float(r["seconds"]) > 0 for r in rows)
    assert all(method in out for method in methods)
    of_rk4 = [r for r in rows if r["method"] == "torchdiffeq:rk4"]
    assert [r["nfe"] for r in of_rk4] == ["80", "80"] and [r["kind"] for r in of_rk4] == ["steps", "steps"]

    assert main([*BENCH, "--problems", "a1", "--name", "r"]) == 2
    assert "exists already and is left as it is" in capsys.readouterr().err and files(here / "runs" / "r") == kept


@pytest.mark.parametrize(("problem", "sentence"), [
    ("unknown", "unknown has no reference value"), ("short", "2 initial values, 1 reference values"),
    ("absent", "has no attribute 'absent'"),
])  # fmt: skip
def test_a_problem_of_mine_that_cannot_be_measured_is_refused(
    problem: str, sentence: str, here: Path, mine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*BENCH, "--problems", f"{mine}:{problem}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and sentence in err and not (here / "runs").exists()


def test_a_stopped_bench_keeps_what_was_finished(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import odenet.experiment.solvers as solvers

    measured, calls = solvers._measured, []

    def stopped(*args: object) -> object:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(solvers, "_measured", stopped)
    assert main([*BENCH, "--problems", "a1", "--methods", "dopri5", "--name", "r"]) == 130
    assert "the 1 of 2 runs that finished are kept" in capsys.readouterr().err
    assert len((here / "runs" / "r" / "work_precision.csv").read_text().splitlines()) == 2


CONSTRUCTED = """
import torch
from odenet.fields import Field
from odenet.integrators import Integrator
from odenet.types import Step

class Failing(Integrator):
    order = 1
    def __init__(self):
        raise RuntimeError("no table found.")
    def step(self, f, t, y, h, carry, coef):
        return Step(y + h * f(t, y), None, ())

class Needy(Failing):
    def __init__(self, table):
        self.table = table

class Empty(Field):
    def __init__(self):
        raise OSError("no weights")
    def init(self, generator=None):
        return {}
    def forward(self, t, y, p):
        return -y

class Odd(Field):
    def init(self, generator=None):
        return {}
    def forward(self, t, y, p):
        return y[..., :0]
"""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Failing", "Failing() raises RuntimeError: no table found; check an instance, or correct it."),
        ("Needy", "Needy() raises TypeError: "),
        ("Empty", "Empty() raises OSError: no weights; correct it."),
        ("Odd", "Odd takes none of the states of shape (3, 4), "),
    ],
)
def test_check_says_in_one_line_what_cannot_be_made(
    name: str, sentence: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "constructed.py").write_text(CONSTRUCTED)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "constructed", raising=False)
    assert main(["check", f"constructed:{name}"]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"odenet: {sentence}") and err.count("\n") == 1 and out == ""


@pytest.mark.parametrize("name", ["rk4", "verlet", "radau_iia5", "euler_maruyama", "kepler", "discrete", "shared"])
def test_check_prints_findings_no_wider_than_the_terminal_and_a_verdict_last(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["check", name]) == 0
    *lines, verdict = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100 and {line[:4].strip() for line in lines} <= {"ok", "skip", ""}
    assert " passes: " in verdict and verdict.endswith(" do not apply.")


def test_check_ends_with_1_and_the_failures_last_for_a_plug_in_that_fails(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "proud.py").write_text(
        "from odenet.integrators import Integrator\nfrom odenet.types import Step\n"
        "class Proud(Integrator):\n    order = 2\n"
        "    def step(self, f, t, y, h, carry, coef):\n        return Step(y + h * f(t, y), None, ())\n"
    )
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.syspath_prepend(here)
    assert main(["check", "proud:Proud"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == (
        "integrator proud:Proud FAILS 4 checks (order, local order, error terms, times); 35 passed, 7 do not apply."
    )
    assert max(map(len, lines[:-1])) <= 100
    failed = [i for i, line in enumerate(lines) if line.startswith("FAIL")]
    assert len(failed) >= 4 and not any(line.startswith(("ok", "skip")) for line in lines[failed[0] :])
    said = " ".join(" ".join(lines).split())
    assert "FAIL order halving the step shows order 1.0" in said and "; correct step(), or write order = 1. " in said
