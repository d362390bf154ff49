"""Whole comparisons on the toy, their report in a real browser, and what is refused."""

import base64
import csv
import hashlib
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.processes import finished

from bonbon.comparison import run as comparison
from bonbon.comparison.page import write_comparison
from bonbon.comparison.recipe import load_comparison
from bonbon.comparison.run import compare
from bonbon.comparison.schema import ComparisonResult, as_csv, read_comparison
from bonbon.console import Console
from bonbon.errors import ConfigError
from bonbon.evaluation.metrics import Point
from bonbon.pipeline import report as reports
from bonbon.report.page import write_report
from bonbon.theory.estimators import Interval

COMPARE = """
compare:
  best_of: [2, 4]
  gold: digits:total
  off_target: {twice: digits:total}
  methods:
    rank: {}
    dpo 0.1: {training: {objective: dpo, beta: 0.1}}
    dpo 0.5: {training: {objective: dpo, beta: 0.5}}
    sft: {training: {objective: sft}}
    rounds: {rounds: {count: 2}, group: rounds}
    rloo: {training: {objective: rloo, beta: 0.2, rlhf_reward: quantile}}
    grpo: {training: {objective: grpo, beta: 0.05}}
  fast: [prompts.num_train=16]
"""
QUIET = Console(quiet=True)
REPORTED = ("rounds", "grpo")
"""Methods whose own reports are drawn, of the kinds that no other whole run draws."""


@pytest.fixture(scope="module")
def recipe_file(toy_place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("comparison") / "recipe.yaml"
    text = (toy_place / "recipe.yaml").read_text() + COMPARE
    path.write_text(text.replace("epochs: 2", "epochs: 1"))
    return path


@pytest.fixture(scope="module")
def done(toy_place: Path, recipe_file: Path) -> Path:
    """Return the directory of a finished comparison; nobody writes there."""
    directory = recipe_file.parent / "run"

    def report_of_some(run_directory: Path) -> Path:
        reported = run_directory.name in REPORTED
        return write_report(run_directory) if reported else run_directory / "report.html"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(toy_place), *sys.path])
        patch.setattr(reports, "write_report", report_of_some)
        compare(load_comparison(recipe_file), directory, console=QUIET)
    return directory


@pytest.fixture
def result(done: Path) -> ComparisonResult:
    return read_comparison(done)


def test_every_method_is_there_and_has_moved(result: ComparisonResult) -> None:
    trained = ["rank", "dpo 0.1", "dpo 0.5", "sft", "rounds", "rloo", "grpo"]
    assert list(result.methods) == ["base", "best-of-2", "best-of-4", *trained]
    for name in trained:
        row = result.methods[name]
        assert row.kl.value > 0
        assert row.kl.low <= row.kl.value <= row.kl.high
        assert row.kl_from_goal is not None
        # The gold reward is the reward here, and so is the attribute.
        assert row.extra["gold"] == row.extra["twice"] == row.reward
    assert result.methods["base"].effective_prompts is None  # and JSON has no infinity
    assert result.reference == "rank"
    assert set(result.leads) == {"dpo", "sft", "rounds", "rloo", "grpo"}
    assert result.over_optimisation is not None
    assert [point.n for point in result.over_optimisation.best_of] == [2, 4]


def test_candidates_are_drawn_once_for_all(done: Path) -> None:
    [shared] = (done / "shared/candidates").glob("train-00000-of-*.parquet")
    for method in (done / "methods").iterdir():
        assert (method / "candidates" / shared.name).read_bytes() == shared.read_bytes()


@pytest.mark.parametrize("method", REPORTED)
def test_a_method_is_a_run_with_a_report_of_its_own(done: Path, method: str) -> None:
    assert (done / "methods" / method / "report.html").stat().st_size > 10_000


@pytest.fixture
def copied(
    done: Path,
    toy_place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    without_pictures: None,
) -> Path:
    """Return a copy of the comparison to go on with, in numbers only."""
    monkeypatch.setattr(sys, "path", [str(toy_place), *sys.path])
    monkeypatch.setattr(comparison, "write_comparison", lambda directory: None)
    return Path(shutil.copytree(done, tmp_path / "run"))


def test_a_method_added_later_is_the_only_one_that_runs(copied: Path, recipe_file: Path) -> None:
    more = copied.parent / "recipe.yaml"
    added = "    rank: {}\n    ipo: {training: {objective: ipo}}\n"
    more.write_text(recipe_file.read_text().replace("    rank: {}\n", added))
    files = [*copied.glob("methods/*/model/*.[js]*"), *copied.glob("methods/*/candidates/*")]
    before = {path: path.stat().st_mtime_ns for path in files}
    result = compare(load_comparison(more), copied, console=QUIET)
    assert "ipo" in result.methods
    assert before
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_more_answers_of_the_base_reach_every_method(copied: Path, recipe_file: Path) -> None:
    recipe = load_comparison(recipe_file, ["evaluation.base_samples=9"])
    result = compare(recipe, copied, console=QUIET, only=["rank", "sft"])
    assert result.base_draws == 9
    # The others have not been measured on these answers, so they are not compared.
    assert list(result.methods) == ["base", "best-of-2", "best-of-4", "rank", "sft"]
    for method in ("rank", "sft"):
        ratios = json.loads((copied / "methods" / method / "log_ratios.json").read_text())
        assert {len(numbers) for numbers in ratios.values()} == {9}


def point_of(result: ComparisonResult, method: str) -> Point:
    row = result.methods[method]
    return Point(kl=row.kl.value, win_rate=row.win_rate.value)


def test_training_seeds_are_spread_on_the_same_candidates(copied: Path, recipe_file: Path) -> None:
    result = compare(load_comparison(recipe_file), copied, console=QUIET, seeds=2, only=["rank"])
    first, second = result.training_seeds["rank"]
    assert first != second
    assert first == point_of(result, "rank")
    later = compare(load_comparison(recipe_file), copied, console=QUIET, only=["sft"])
    assert later.training_seeds == result.training_seeds  # they were paid for
    reseeded = copied.parent / "reseeded.yaml"
    text = recipe_file.read_text()
    reseeded.write_text(text.replace("rank: {}", "rank: {}\n    again: {training: {seed: 1}}"))
    seeded = compare(load_comparison(reseeded), copied, console=QUIET, only=["again"])
    assert point_of(seeded, "again") == second


def test_what_was_not_measured_as_wanted_is_not_compared(copied: Path, recipe_file: Path) -> None:
    compare(load_comparison(recipe_file), copied, console=QUIET, seeds=2, only=["rank"])
    more = copied.parent / "more.yaml"
    text = recipe_file.read_text()
    more.write_text(text.replace("gold: digits:total", "gold: digits:words"))
    result = compare(load_comparison(more), copied, console=QUIET, only=["rank"])
    # The others have gold scores of another reward, and so has rank's second run.
    assert list(result.methods) == ["base", "best-of-2", "best-of-4", "rank"]
    assert result.training_seeds == {}
    assert result.methods["rank"].extra["gold"] != result.methods["rank"].reward


def test_a_method_that_was_killed_is_not_compared(
    copied: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = copied.parent / "changed.yaml"
    text = recipe_file.read_text()
    changed.write_text(text.replace("objective: sft}", "objective: sft, learning_rate: 1.7e-3}"))

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bonbon.comparison.run.measure_log_ratios", killed)
        with pytest.raises(KeyboardInterrupt):
            compare(load_comparison(changed), copied, console=QUIET, only=["sft"])
    result = compare(load_comparison(changed), copied, console=QUIET, only=["rank"])
    assert "sft" not in result.methods
    assert {"rank", "rloo"} <= set(result.methods)
    again = compare(load_comparison(changed), copied, console=QUIET)
    assert "sft" in again.methods


def test_one_answer_per_prompt_is_enough_for_a_report(
    copied: Path, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "write_comparison", write_comparison)
    recipe = load_comparison(recipe_file, ["evaluation.policy_samples=1"])
    result = compare(recipe, copied, console=QUIET, only=["rank"])
    assert result.methods["rank"].self_chrf is None
    assert "similarity of two answers" not in (copied / "figures/drift.svg").read_text()


def test_a_setting_of_the_comparison_can_be_set_from_outside(
    recipe_file: Path, toy_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(toy_place), *sys.path])
    recipe = load_comparison(recipe_file, ["compare.reference=sft", "prompts.num_train=20"])
    assert recipe.reference == "sft"
    assert recipe.base.prompts.num_train == 20


def test_costs_tell_shared_draws_from_those_of_training(result: ComparisonResult) -> None:
    cost, shared = result.cost, result.cost["rank"]["sampled_tokens"]
    assert cost["grpo"]["sampled_tokens"] == cost["grpo"]["trained_tokens"] > 0
    assert cost["rloo"]["sampled_tokens"] == shared + cost["rloo"]["trained_tokens"]
    compared: Any = result.compare
    assert compared["methods"]["dpo 0.5"]["training"]["beta"] == 0.5


def test_best_of_n_has_no_interval_where_it_is_known(result: ComparisonResult) -> None:
    for n in (2, 4):
        kl = result.methods[f"best-of-{n}"].kl
        assert kl.low == kl.value == kl.high > 0
    strengths = dict(zip(result.pairwise.methods, result.pairwise.strengths, strict=True))
    assert strengths["base"] == Interval(0.0, 0.0, 0.0)
    assert strengths["rank"].low < strengths["rank"].value < strengths["rank"].high


def test_the_table_is_written_for_others_to_read(done: Path, result: ComparisonResult) -> None:
    rows = list(csv.DictReader((done / "comparison.csv").read_text().splitlines()))
    assert (done / "comparison.csv").read_text() == as_csv(result)
    formulas = {f"={name}": row for name, row in result.methods.items()}
    pairwise = result.pairwise.model_copy(update={"methods": list(formulas)})
    changed = {"methods": formulas, "pairwise": pairwise}
    _, *lines = as_csv(result.model_copy(update=changed)).splitlines()
    assert all(line.startswith("'=") for line in lines)  # no spreadsheet reckons with them
    assert [row["method"] for row in rows] == list(result.methods)
    rank = next(row for row in rows if row["method"] == "rank")
    assert float(rank["win_rate"]) == result.methods["rank"].win_rate.value
    assert float(rank["tokens_trained"]) > 0
    names = {path.name for path in (done / "figures").iterdir()}
    assert {"win-rate.svg", "win-rate.pdf", "tilt.pdf", "pairwise.svg", "drift.pdf"} <= names
    assert (done / "figures/win-rate.pdf").read_bytes().startswith(b"%PDF")


CLICKS = """
const seen = {};
const list = document.getElementById("list");
const press = (key) => list.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
const title = () => document.querySelector("#detail h3").textContent;
const rows = () => [...document.querySelectorAll('[role="option"]')];
seen.prompts = rows().length;
seen.first = title();
rows()[1].click();
seen.clicked = title();
press("j");
seen.moved = title();
const sort = document.getElementById("sort");
sort.value = "gap";
sort.dispatchEvent(new Event("change", {bubbles: true}));
const gap = (row) => row.querySelector(".facts span").textContent.replace("\\u2212", "-");
rows()[0].click();
seen.first_of_gaps = title();
press("j");
seen.gaps = rows().map((row) => parseFloat(gap(row)));
const search = document.getElementById("search");
search.value = "no such words at all";
search.dispatchEvent(new Event("input", {bubbles: true}));
seen.none = rows().length;
search.value = "";
search.dispatchEvent(new Event("input", {bubbles: true}));
seen.all = rows().length;
seen.sides = [...document.querySelectorAll("#detail h4 span")].map((side) => side.textContent);
seen.choices = getComputedStyle(document.getElementById("split")).display;
seen.colour = getComputedStyle(document.body).backgroundColor;
const links = [...document.querySelectorAll("a[download]")];
seen.width = innerWidth;
seen.overflow = document.documentElement.scrollWidth - innerWidth;
press("k");
seen.back = title();
press("/");
seen.focus = document.activeElement.id;
seen.downloads = links.map((link) => atob(link.href.split("base64,")[1]).length);
document.title = JSON.stringify(seen);
"""


def browsed(page: Path, directory: Path, *, scheme: int, width: int = 1200) -> dict[str, Any]:
    """Open a copy of the page in which a script clicks, and return what it saw."""
    html = page.read_text()
    clicks = base64.b64encode(hashlib.sha256(CLICKS.encode()).digest()).decode()
    html = html.replace("script-src ", f"script-src 'sha256-{clicks}' ", 1)  # the rest stays shut
    copy = directory / f"clicked-{scheme}.html"
    copy.write_text(html.replace("</body>", f"<script>{CLICKS}</script></body>"))
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--enable-logging=stderr --disable-background-networking --disable-component-update "
        "--disable-sync "
        f"--blink-settings=preferredColorScheme={scheme} --window-size={width},900 "
        f"--user-data-dir={directory / 'profile'}"
    )
    command = ["chromium", *flags.split(), "--dump-dom", copy.as_uri()]
    done = finished(command)
    assert (done.returncode, ":CONSOLE" in done.stderr) == (0, False), done.stderr
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    return json.loads(title[1].replace("&amp;", "&"))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_the_page_works_in_a_browser_light_and_dark(done: Path, tmp_path: Path) -> None:
    page = done / "comparison.html"
    light, dark = (browsed(page, tmp_path, scheme=scheme) for scheme in (1, 0))
    phone = browsed(page, tmp_path, scheme=1, width=390)
    assert light["colour"] != dark["colour"]
    assert phone["width"] < light["width"]
    for seen in (light, dark, phone):
        assert seen["overflow"] <= 0
        assert seen["back"] == seen["first_of_gaps"]
        assert seen["focus"] == "search"
        assert seen["prompts"] == seen["all"] == 12
        assert seen["none"] == 0
        assert seen["gaps"] == sorted(seen["gaps"], reverse=True)
        assert seen["choices"] == "none"  # all prompts here are held out
        assert len({seen["first"], seen["clicked"], seen["moved"]}) == 3
        assert seen["sides"][:3] == ["base", "best-of-4", "rank"]
        assert all(size > 500 for size in seen["downloads"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("compare:", "contrast:"), "no section `compare`"),
        (("objective: sft", "objective: sftt"), "compare.methods.sft: training.objective"),
        (("best_of: [2, 4]", "best_of: [2, 6]"), "raise evaluation.base_samples, now 6"),
        (("best_of: [2, 4]", "best_of: [1]"), "whole numbers from 2 up"),
        (("    rank: {}", "    base: {}"), "got a method called 'base'"),
        (("    rank: {}", "    rank: {group: best-of-n}"), "rank: got the group 'best-of-n'"),
        (("    rank: {}", "    rank: {family: best-of-n}"), "rank: got the group 'best-of-n'"),
        (("best_of: [2, 4]", "reference: rnak"), "got 'rnak', expected one of rank, dpo 0.1"),
        (("best_of: [2, 4]", "leader: rnak"), "compare.reference: got 'rnak'"),
        (("count: 2}", "count: 2}, training: {objective: rloo}"), "leave rounds out"),
        (("gold: digits:total", "gold: digits:totl"), "did you mean 'total'?"),
        (
            ("gold: digits:total", "gold: {kind: z-score, reward: digits:total}"),
            "compare.gold: a reward that compares",
        ),
        (("{twice: digits", "{a/b: digits"), "got an attribute called 'a/b'"),
        (("{twice: digits", "{gold: digits"), "got an attribute called 'gold'"),
        (("    rank: {}", "    rank seed 1: {}"), "got a method called 'rank seed 1'"),
        (
            ("    rank: {}", "    rank: {trainng: {}}"),
            "did you mean 'compare.methods.rank.training'?",
        ),
        (("gold: digits:total", "gold: 3"), "compare.gold: got 3"),
        (("max_new_tokens: 5}", "max_new_tokens: 5, stop: [x]}"), "has no stop strings"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(
    recipe_file: Path,
    toy_place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, str],
    expected: str,
) -> None:
    monkeypatch.setattr(sys, "path", [str(toy_place), *sys.path])
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_file.read_text().replace(*change))
    with pytest.raises(ConfigError) as refused:
        load_comparison(path)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


def test_damaged_comparisons_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read_comparison(tmp_path)
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        read_comparison(tmp_path)
    (tmp_path / "comparison.json").write_text('{"schema": 5}')
    with pytest.raises(ConfigError, match=r"version 5, and .* reads 6; run `bonbon compare`"):
        read_comparison(tmp_path)
