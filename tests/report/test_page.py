import base64
import hashlib
import json
import re
import shutil
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from tests.processes import finished

from bonbon.data.store import CandidateStore
from bonbon.errors import ConfigError
from bonbon.records import Candidate
from bonbon.report.page import read_run, report_html, reward_samples, write_report

HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>{{ 7 * 7 }} & \u2028 'quoted\""
VOID = {"meta", "link", "br", "input", "img", "hr"}


@dataclass
class Page(HTMLParser):
    """What a browser would make of the file, as far as these tests ask."""

    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    text: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        tag = self.open[-1] if self.open else ""
        self.text[tag] = self.text.get(tag, "") + data

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def parsed(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def embedded(html: str) -> dict[str, Any]:
    start = html.index('<script type="application/json" id="data">')
    start = html.index(">", start) + 1
    return json.loads(html[start : html.index("</script>", start)])


@pytest.fixture(scope="module")
def report(run_directory: Path) -> str:
    path = write_report(run_directory)
    assert path == run_directory / "report.html"
    return path.read_text(encoding="utf-8")


def test_elements_nest_and_ids_are_unique(report: str) -> None:
    ids = [a["id"] for _, a in parsed(report).elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_nothing_is_loaded_from_anywhere(report: str) -> None:
    page = parsed(report)
    assert not {"img", "link", "iframe", "object", "image"} & {tag for tag, _ in page.elements}
    assert not any("src" in attributes or "srcset" in attributes for _, attributes in page.elements)
    for tag, attributes in page.elements:
        if tag != "a":
            link = attributes.get("href") or attributes.get("xlink:href") or "#"
            assert link.startswith("#")
    styles = " ".join([page.text["style"], *(a.get("style") or "" for _, a in page.elements)])
    assert "@import" not in styles
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)", styles))


def test_the_page_forbids_all_but_its_own_script(report: str) -> None:
    (policy,) = [
        a["content"] or ""
        for a in parsed(report).attributes("meta")
        if a.get("http-equiv") == "Content-Security-Policy"
    ]
    script = report[report.rindex("<script>") + len("<script>") : report.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")


def test_every_prompt_and_answer_is_there(report: str, run_directory: Path) -> None:
    store = CandidateStore(run_directory)
    shown = {
        (entry["id"], row[1])
        for entry in embedded(report)["prompts"]
        for side in entry["sides"]
        for row in side["rows"]
    }
    for set_name in ("train", "eval-base", "eval-bonbon"):
        candidates = store.read(set_name)
        assert shown >= {(c.prompt_id, c.text) for c in candidates}
    texts = {entry["text"] for entry in embedded(report)["prompts"]}
    assert texts == {c.prompt_text for s in ("train", "eval-base") for c in store.read(s)}


def test_the_table_holds_the_metrics(report: str, run_directory: Path) -> None:
    metrics = json.loads((run_directory / "metrics.json").read_text())
    for name, row in metrics["methods"].items():
        cells = report.split(f'data-method="{name}"')[1].split("</tr>")[0]
        for key in ("win_rate", "kl", "mean_reward"):
            assert f">{row[key]['value']:.3f}" in cells
        if name != "base":
            low, high = row["win_rate"]["low"], row["win_rate"]["high"]
            assert f"[{low:.3f},\N{NO-BREAK SPACE}{high:.3f}]" in cells


def test_figures_come_for_wide_and_for_narrow_screens(report: str) -> None:
    drawings = {a["class"] for a in parsed(report).attributes("svg")}
    assert drawings == {
        f"{name}-{size}"
        for name in ("frontier", "rewards", "training")
        for size in ("wide", "narrow")
    }
    assert all(a["role"] == "img" and a["aria-label"] for a in parsed(report).attributes("svg"))


def test_controls_are_labelled(report: str) -> None:
    assert parsed(report).attributes("html")[0]["lang"] == "en"
    controls = list(re.finditer(r"<(input|select)\b", report))
    assert len(controls) == 5
    for control in controls:
        assert report.rfind("<label", 0, control.start()) > report.rfind(
            "</label", 0, control.start()
        )


def test_reward_samples_are_the_three_that_are_compared(run_directory: Path) -> None:
    samples = reward_samples(read_run(run_directory))
    assert list(samples) == ["base", "best-of-8", "bonbon"]
    assert samples["base"].mean < samples["bonbon"].mean < samples["best-of-8"].mean


@pytest.fixture(scope="module")
def hostile_report(tmp_path_factory: pytest.TempPathFactory, run_directory: Path) -> Path:
    directory = tmp_path_factory.mktemp("hostile") / "run"
    shutil.copytree(run_directory, directory)
    store = CandidateStore(directory)
    candidates = [
        Candidate(HOSTILE, index, HOSTILE, (1,), text, (2,), -1.0, "stop")
        for index, text in enumerate((HOSTILE, "", "plain"))
    ]
    for set_name in ("train", "eval-base", "eval-bonbon"):
        store.discard(set_name)
        store.write_shard(set_name, 0, 1, candidates)
        store.write_scores(
            set_name, HOSTILE, [0.5, 0.1, 0.3], [candidate.key for candidate in candidates]
        )
    metrics = json.loads((directory / "metrics.json").read_text())
    metrics |= {"reward": HOSTILE, "policy": HOSTILE, "tilt": HOSTILE, "name": HOSTILE}
    metrics["versions"] = {HOSTILE: HOSTILE}
    (directory / "metrics.json").write_text(json.dumps(metrics))
    (directory / "recipe.yaml").write_text(HOSTILE, encoding="utf-8")
    return write_report(directory)


def test_hostile_text_stays_text(hostile_report: Path) -> None:
    html = hostile_report.read_text(encoding="utf-8")
    page = parsed(html)
    assert not page.attributes("img")
    assert len(page.attributes("script")) == 2
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert embedded(html)["prompts"][0]["text"] == HOSTILE
    assert embedded(html)["prompts"][0]["sides"][0]["rows"][0][1] == HOSTILE
    assert page.text["pre"] == HOSTILE


def test_the_script_never_writes_markup() -> None:
    script = read_script()
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert way not in script


def read_script() -> str:
    source = Path(__file__).parents[2] / "src/bonbon/report/templates/report.js"
    return source.read_text(encoding="utf-8")


def test_a_run_reduced_to_its_metrics_still_reports(
    own_run_directory: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(own_run_directory / "metrics.json", bare)
    html = write_report(bare).read_text(encoding="utf-8")
    page = parsed(html)
    assert {a["class"] for a in page.attributes("svg")} == {"frontier-wide", "frontier-narrow"}
    assert 'id="answers"' not in html
    assert embedded(html)["prompts"] == []


def test_a_run_that_was_not_evaluated_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="evaluate the run"):
        write_report(tmp_path)


def test_the_same_run_gives_the_same_page(report: str, run_directory: Path) -> None:
    assert report_html(read_run(run_directory)) == report


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_lists_the_prompts_and_runs_nothing_hostile(
    hostile_report: Path, tmp_path: Path
) -> None:
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync"
    )
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = ["chromium", *flags.split(), profile, "--dump-dom", hostile_report.as_uri()]
    done = finished(command)
    assert done.returncode == 0, done.stderr
    dom = done.stdout
    assert dom.count('role="option"') == 1
    assert "1 of 2 prompts" in dom
    assert dom.count('class="said"') == 4
    assert "(an empty answer)" in dom
    assert "<img" not in dom.split("<script")[0]
    assert "&lt;img src=x onerror=alert(1)&gt;" in dom
