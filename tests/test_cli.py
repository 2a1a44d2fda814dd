from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import odenet as on
from odenet.cli import main

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


@pytest.mark.parametrize("kind", ["integrators", "nets", "fields", "data", "pdes", "methods"])
def test_list_prints_the_names_of_the_registry(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", kind]) == 0
    registry = {"pdes": on.pde, "methods": on.train}.get(kind) or getattr(on, kind)
    assert capsys.readouterr().out.split() == registry.names()


@pytest.mark.parametrize("kind", ["integrators", "nets", "fields", "data", "train"])
def test_show_says_something_about_every_name_there_is(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in getattr(on, kind).names():
        if name.startswith("torchdiffeq:"):
            continue
        assert main(["show", name]) == 0, name
        out = capsys.readouterr().out
        assert out.startswith(name) and len(out.splitlines()) > 1, name


def test_show_prints_the_facts_of_a_scheme(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "rk4"]) == 0
    out = capsys.readouterr().out
    # Hairer & Wanner: the real interval of rk4 is 2.785, its imaginary one 2 sqrt 2
    assert "order:       4" in out and "-2.785" in out and "2.828" in out and "Kutta" in out


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
        (["pde", "burgers", "--method", "x"], "PDE problems are not built in this version"),
        (["check", "a:b"], "not built in this version"),
        (["papers", "run", "x"], "not built in this version"),
        (["resume", "x"], "in this version"),
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
    assert main(["stability", "runs/r"]) == 0
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
    assert "has saved no nets" in capsys.readouterr().err


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
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=here)
    assert done.returncode == 0, done.stderr
    assert (
        "my_rk2" in (here / "kept" / "results.csv").read_text()
        and "my_rk2" in (here / "kept" / "report.html").read_text()
    )
