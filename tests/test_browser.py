"""Pages in a real browser: what their text cannot tell, such as pictures that do not show or lines that stick out."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import odenet as on
import stability_stub
from odenet.experiment.suite.results import carry_out
from odenet.experiment.suite.spec import Suite

BROWSER = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no chromium on this machine")

# what a page looks like once it is there, told to the frame around it, which writes it where --dump-dom prints it
LOOK = """<script>
const errors = [];
window.addEventListener("error", e => errors.push(String(e.message || e.target.src || e.target.href)), true);
window.addEventListener("load", () => {
  const scrolls = e => { for (; e; e = e.parentElement) if (getComputedStyle(e).overflowX === "auto") return true; };
  const box = e => { const r = e.getBoundingClientRect(); return [r.left, r.right, r.width, r.height]; };
  const out = [...document.querySelectorAll("body *")].filter(e => !scrolls(e) && box(e)[1] > innerWidth + 1);
  const small = [...document.querySelectorAll("p, td, th, figcaption, small, h3, a")].filter(e => e.offsetParent)
    .map(e => parseFloat(getComputedStyle(e).fontSize));
  const found = {
    width: innerWidth, scroll: document.documentElement.scrollWidth, errors: errors,
    images: [...document.images].map(i => ({natural: [i.naturalWidth, i.naturalHeight], box: box(i), alt: i.alt})),
    columns: new Set([...document.querySelectorAll("figure")].map(f => Math.round(box(f)[0]))).size,
    sticking: out.map(e => e.tagName + " " + e.className + " " + e.textContent.slice(0, 60)),
    loaded: performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:")),
    smallest: Math.min(...small), headings: [...document.querySelectorAll("h2")].map(h => h.textContent),
    cells: [...document.querySelectorAll("table.all tr")].map(r => r.textContent),
  };
  parent.postMessage(JSON.stringify(found), "*");
});
</script>"""
AROUND = """<!DOCTYPE html><html><body style="margin: 0"><pre id="found"></pre><script>
window.addEventListener("message", e => document.getElementById("found").append(e.data));
</script><iframe src="{name}" style="border: 0; width: {width}px; height: 900px"></iframe></body></html>"""


def opened(page: Path, width: int, folder: Path) -> dict[str, Any]:
    """What a browser shows of a page in a frame of this width (windows are 500 wide at least), and its complaints."""
    watched = folder / f"watched-{width}.html"
    watched.write_text(page.read_text(encoding="utf-8").replace("<head>", "<head>" + LOOK, 1), encoding="utf-8")
    around = folder / f"around-{width}.html"
    around.write_text(AROUND.format(name=watched.name, width=width), encoding="utf-8")
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--enable-logging=stderr", "--virtual-time-budget=4000", f"--window-size={width + 100},1000",
            f"--user-data-dir={folder / f'profile-{width}'}", "--dump-dom", around.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r'<pre id="found">(.+?)</pre>', done.stdout, re.S)
    assert found, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(html.unescape(found.group(1))), "console": console}


def faultless(seen: dict[str, Any], width: int, figures: int) -> None:
    """No error, no request, no picture without size, nothing that sticks out, no letters too small to read."""
    assert seen["errors"] == seen["console"] == seen["loaded"] == seen["sticking"] == []
    assert seen["width"] == width and seen["scroll"] <= width
    assert len(seen["images"]) == figures
    for image in seen["images"]:
        assert min(image["natural"]) > 100 and min(image["box"][2:]) > 80 and len(image["alt"]) > 60
        assert image["box"][3] / image["box"][2] == pytest.approx(image["natural"][1] / image["natural"][0], rel=0.02)
    assert seen["smallest"] >= 12


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stability_stub.results().save(tmp_path_factory.mktemp("stub"))


@pytest.mark.parametrize(("width", "columns"), [(1200, 2), (420, 1)])
def test_the_page_of_several_nets_is_in_order_on_a_desk_and_on_a_phone(
    stub: Path, tmp_path: Path, width: int, columns: int
) -> None:
    seen = opened(stub / "report.html", width, tmp_path)
    faultless(seen, width, len(list((stub / "figures").glob("*.svg"))))
    assert seen["columns"] == columns
    assert seen["headings"][:3] == ["Verdicts", "Failed", "Side by side"]
    assert seen["headings"][3:] == ["resnet/euler", "parabolic/euler", "mlp", "How it was measured"]


def test_the_page_of_a_tiny_run_shows_the_numbers_of_its_net(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    suite = Suite(nets=("resnet",), integrators=(), data="moons", seeds=1, width=4, steps=4, train_steps=3, workers=1)
    folder = carry_out(suite, None, tmp_path / "run", progress=False).save(tmp_path / "run")
    seen = opened(folder / "report.html", 420, tmp_path)
    faultless(seen, 420, 7)
    data = on.data.load("moons", seed=0)
    net = on.load(folder / "nets" / "resnet-euler.safetensors").eval()
    s = on.stability.sensitivity(on.stability.unroll(net, the_four(data.x_test)))
    shown = {row.split()[0]: row.split()[1] for row in map(spaced, seen["cells"])}
    assert float(shown["sensitivity_max"]) == pytest.approx(float(s.backward.max()), rel=6e-3)
    right = float((net(data.x_test).argmax(1) == data.y_test).double().mean())
    assert float(shown["test_accuracy"]) == pytest.approx(right, rel=6e-3) and math.isfinite(right)


def the_four(x: torch.Tensor) -> torch.Tensor:
    """The samples that a report draws."""
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:4].sort().values]


def spaced(row: str) -> str:
    """name and value of a row, whose cells the browser joins."""
    return re.sub(r"(?<=[a-z_0-9])(?=\d+(\.\d+)?(e[-+]\d+)?( |$))", " ", row, count=1)


def test_a_page_with_faults_is_caught(tmp_path: Path) -> None:
    broken = tmp_path / "broken.html"
    broken.write_text(
        "<!DOCTYPE html><html><head></head><body><img src='http://127.0.0.1:9/missing.png' alt='x'>"
        "<div style='width:900px'>wide</div><script>console.error('no'); nowhere();</script></body></html>"
    )
    seen = opened(broken, 420, tmp_path)
    assert seen["errors"] and seen["sticking"] and any("nowhere" in line for line in seen["console"])
    assert seen["loaded"] == ["http://127.0.0.1:9/missing.png"] and seen["images"][0]["natural"] == [0, 0]
