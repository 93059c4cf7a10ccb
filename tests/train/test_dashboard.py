"""The page of all runs: what is read of them, what is thinned out, and the page at work in a browser."""

import importlib.util
import json
import math
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from framework.dashboard import build_page
from framework.dashboard.build import POINTS, thinned
from framework.history import differing, find_runs, read_run
from framework.script import command

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")


def _own_module(name):
    """A helper beside this file, whatever the import mode."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


write_run = _own_module("runlogs").write_run


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs"
    write_run(root / "sweep" / "0", cell="lstm", lr=0.001, best=0.7)
    write_run(root / "sweep" / "2", cell="gru", lr=0.01, best=0.9)
    write_run(root / "sweep" / "10", cell="gru", lr=0.0001, best=0.5, end=False)
    return root


@pytest.fixture
def script(capsys):
    path = ROOT / "scripts" / "dashboard.py"
    spec = importlib.util.spec_from_file_location("script_dashboard", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        code = command(module.main, module.__doc__, [str(each) for each in arguments])
        return code, *capsys.readouterr()

    return run


# ---- reading


def test_runs_are_found_in_the_order_of_their_numbers(runs):
    assert [path.name for path in find_runs(runs)] == ["0", "2", "10"]
    assert find_runs(runs / "sweep" / "2") == [runs / "sweep" / "2"]


def test_a_run_is_its_options_curves_and_results(runs):
    run = read_run(runs / "sweep" / "2")
    assert run.options["cell"] == "gru" and run.options["optimizer.lr"] == 0.01
    assert run.options["model.params.size"] == 32 and run.options["optimizer.betas"] == "[0.9, 0.999]"
    assert run.options["data"] == "synth_speech" and run.options["data.batch_size"] == 8
    assert not any("nodes" in key or key == "data.name" for key in run.options)
    assert (run.metric, run.higher, run.best, run.last_step) == ("accuracy", True, (0.9, 20), 20)
    assert len(run.steps) == 20 and len(run.evals) == 2 and run.end["why"] == "2 epochs done"
    assert run.problems == []
    assert differing([read_run(path) for path in find_runs(runs)]) == ["cell", "optimizer.lr"]


def test_lower_is_better_where_the_run_says_so(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    records = [{"kind": "start", "step": 0, "metric": "per", "better": "lower"}]
    records += [
        {"kind": "eval", "step": n, "per": p, "accuracy": 1} for n, p in ((1, 0.5), (2, 0.3), (3, "nan"))
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert read_run(folder).best == (0.3, 2)


def test_broken_lines_are_named_and_hide_nothing(tmp_path):
    bad = ["{half of a li", "[1, 2]", '{"kind": "step", "step": "x"}', '{"kind": "party", "step": 3}', "\x00"]
    run = read_run(write_run(tmp_path / "run", lines=[*bad, "nonsense", "more"]))
    assert len(run.steps) == 20 and run.end
    assert run.problems[0] == "metrics.jsonl line 24: it is no JSON"
    assert "line 25: it is no JSON object" in run.problems[1]
    assert "line 26: it has no update number" in run.problems[2]
    assert "line 27: it has no known kind" in run.problems[3]
    assert run.problems[-1] == "metrics.jsonl: 2 more lines like these"
    (tmp_path / "run" / "config.yaml").write_text("a: [")
    assert "config.yaml is no YAML" in read_run(tmp_path / "run").problems


def test_the_unfinished_line_of_a_killed_run_is_no_problem(tmp_path):
    folder = write_run(tmp_path / "run", end=False)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "st')
    run = read_run(folder)
    assert run.problems == [] and run.end == {} and len(run.steps) == 20


def test_after_a_resume_the_later_record_of_an_update_counts_and_the_end_is_open(tmp_path):
    again = ['{"kind": "resume", "step": 20}', '{"kind": "step", "step": 20, "loss": 7.0}']
    folder = write_run(tmp_path / "run", lines=again, end=False)
    run = read_run(folder)
    assert len(run.steps) == 20 and run.steps[-1]["loss"] == 7.0 and run.end == {}


# ---- thinning


def test_thinning_keeps_ends_peaks_and_what_is_not_finite():
    draw = random.Random(3)
    print("seed 3")
    curve = [(x, draw.random()) for x in range(10_000)]
    curve[5000], curve[7000], curve[8000] = (5000, 9.0), (7000, -9.0), (8000, math.nan)
    thin = thinned(curve, 100)
    assert len(thin) <= 100 and thin == sorted(thin, key=lambda point: point[0])
    assert thin[0] == curve[0] and thin[-1] == curve[-1]
    assert {(5000, 9.0), (7000, -9.0)} <= set(thin) and 8000 in [x for x, _ in thin]
    assert thinned(curve[:50], 100) == curve[:50]


def test_a_large_run_makes_a_small_page(tmp_path):
    write_run(tmp_path / "runs" / "long", steps=8000)
    page, _ = build_page(tmp_path / "runs", "now")
    data = _data(page)
    (run,) = data["runs"]
    assert data["points"] == 600 and POINTS > 600
    assert max(len(curve["x"]) for curve in run["curves"]) <= 600
    assert all(len(curve["x"]) == len(curve["y"]) for curve in run["curves"])
    assert run["clock"][0][-1] == 8000 and run["clock"][1][-1] == pytest.approx(4000)
    assert len(page) < 300_000 < (tmp_path / "runs" / "long" / "metrics.jsonl").stat().st_size


# ---- the page


def _data(page):
    text = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)[1]
    return json.loads(text)


def test_the_page_stands_alone(runs):
    page, _ = build_page(runs, "2025-01-01 12:00")
    assert "@" not in re.sub(r"@(media|keyframes)", "", re.findall(r"<style>(.*?)</style>", page, re.S)[0])
    links = set(re.findall(r"""\w+://[^\s"'<]*""", page))
    assert links == {"http://www.w3.org/2000/svg"}  # a name, not a place
    assert not re.search(r"<link|<img|\bsrc=|@import|fetch\(|XMLHttpRequest", page)
    names = [run["name"] for run in _data(page)["runs"]]
    assert names == ["sweep/0", "sweep/2", "sweep/10"]


def test_text_of_a_run_cannot_break_out_of_the_page(tmp_path):
    folder = write_run(
        tmp_path / "runs" / "a<b>",
        end=False,
        lines=['{"kind": "start", "step": 0, "plan": "</script><b>\\ud800"}'],
    )
    page, _ = build_page(tmp_path / "runs", "now", title="</title><script>alert(1)</script>")
    assert page.count("</script>") == 2 and "<script>alert" not in page
    assert _data(page)["runs"][0]["name"] == folder.name
    page.encode()


def test_the_script_writes_the_page_and_names_mistakes(script, runs, tmp_path):
    code, out, err = script(runs, "title=Mine")
    assert code == 0 and "3 runs" in out and err == ""
    assert "<h1>Mine</h1>" in (runs / "dashboard.html").read_text(encoding="utf-8")
    assert script(runs, f"out={tmp_path}/other.html")[0] == 0 and (tmp_path / "other.html").exists()
    (tmp_path / "empty").mkdir()
    for given, words in (
        ((tmp_path / "empty",), "there is no run below it"),
        ((tmp_path / "nowhere",), "there is no such folder"),
        ((runs, "titel=x"), "Did you mean 'title'?"),
        ((runs, runs), "2 are given"),
        ((runs, f"out={tmp_path}/no/such/place.html"), "it cannot be written"),
    ):
        code, out, err = script(*given)
        assert code == 2 and out == "" and words in err and len(err.splitlines()) == 1, (given, err)


# ---- in a browser


@pytest.fixture(scope="module")
def browser():
    """Opens a file without a screen and gives its elements back as they stand after its scripts."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed (apt-get install chromium)")

    def open_page(address, profile):
        offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking"]
        quiet = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            f"--user-data-dir={profile}",
        ]
        command = [found, *quiet, *offline, "--dump-dom", address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
        return done.stdout

    return open_page


def test_the_page_works_in_a_browser(browser, runs, tmp_path):
    page, _ = build_page(runs, "now")
    steps = Path(__file__).with_name("dashboard_steps.js").read_text(encoding="utf-8")
    path = tmp_path / "page.html"
    path.write_text(page.replace("</body>", f"<script>{steps}</script></body>"), encoding="utf-8")
    text = browser(path.as_uri(), tmp_path / "profile")
    match = re.search(r'<pre id="seen">(.*?)</pre>', text, re.S)
    assert match, text[-2000:]
    seen = json.loads(match[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
    assert seen["errors"] == []
    assert seen["first"]["names"] == ["sweep/2", "sweep/0", "sweep/10"]  # best first
    charts = [
        "loss",
        "accuracy",
        "learning rate",
        "frames per second",
        "time of an update",
        "inside the loops",
        "use of the CPU",
        "most memory",
    ]
    assert seen["first"]["charts"] == charts
    assert seen["first"]["loss"] == 6  # train and dev of three runs
    assert "3 of 3 runs" in seen["first"]["note"]
    assert seen["filters"] == {
        "gru": ["sweep/2", "sweep/10"],
        "lr>=0.001": ["sweep/2", "sweep/0"],
        "cell=gru lr<0.001": ["sweep/10"],
        "-unfinished": ["sweep/2", "sweep/0"],
        "best>0.6 -cell=lstm": ["sweep/2"],
        "cell!=gru": ["sweep/0"],
        "speed>3": [],
    }
    assert seen["unknown"] == "No run has an option 'speed'."
    assert seen["up"] == ["sweep/10", "sweep/0", "sweep/2"] and seen["down"] == seen["up"][::-1]
    assert seen["groups"] == [
        "cell=gru: 2 runs, accuracy best 0.9, mean 0.7 ± 0.2828",
        "cell=lstm: 1 run, accuracy best 0.7",
    ]
    compared = {row[0]: row[1:] for row in seen["compared"]}
    assert sorted(compared[""]) == ["sweep/0", "sweep/10"]
    order = compared[""]
    assert dict(zip(order, compared["cell"], strict=True)) == {"sweep/0": "lstm", "sweep/10": "gru"}
    assert "train.schedule" not in compared  # it is the same
    assert compared["CPU %"] == ["75", "75"] and "GPU %" not in compared
    assert compared["peak MiB"] == ["20", "20"]
    assert compared["kept MiB, predicted"] == ["31.25", "31.25"]  # 64 * 32 bytes, 16000 frames an update
    assert seen["picked"] == 4 and sorted(seen["plans"]) == ["plan of gru", "plan of lstm"]
    assert "10" in seen["axis"]  # 20 updates of half a second
    for part in ("group=cell", "sort=optimizer.lr", "down=true", "x=seconds", "log=true", "smooth=0.9"):
        assert part in seen["address"]
    assert re.fullmatch(r"sweep/(0|10) (train|dev): [\d.]+ at [\d.]+ s", seen["tip"])
    assert seen["theme"] == [True, True] and seen["after"] == 6


def test_a_single_point_and_a_huge_loss_can_be_seen(browser, tmp_path):
    write_run(tmp_path / "runs" / "short", steps=1)
    log = tmp_path / "runs" / "short" / "metrics.jsonl"
    log.write_text(log.read_text().replace('"loss": 3.0', '"loss": 3e20'), encoding="utf-8")
    page, _ = build_page(tmp_path / "runs", "now")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    text = browser((tmp_path / "page.html").as_uri(), tmp_path / "profile")
    loss = re.search(r'<figure data-chart="loss".*?</figure>', text, re.S)
    assert loss and loss[0].count("<circle cx") == 2, text[-2000:]  # train and dev
    marks = re.findall(r"<text[^>]*>([^<]+)</text>", loss[0])
    assert any(re.fullmatch(r"\d\.\de\+20", mark) for mark in marks) and max(map(len, marks)) < 8, marks


def test_an_address_brings_a_view_back(browser, runs, tmp_path):
    page, _ = build_page(runs, "now")
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    text = browser(path.as_uri() + "#q=gru&sort=optimizer.lr&theme=dark", tmp_path / "profile")
    assert re.findall(r'<tr class="run" data-run="([^"]*)"', text) == ["sweep/10", "sweep/2"]
    assert re.search(r'<html[^>]*class="dark"', text)
