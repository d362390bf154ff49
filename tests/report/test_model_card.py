from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from bonbon.evaluation.metrics import Metrics
from bonbon.report.model_card import model_card


def front_matter(card: str) -> dict[str, Any]:
    """Read the front matter as the hub does."""
    return ModelCard(card).data.to_dict()


RECIPE: dict[str, Any] = {
    "name": "quickstart",
    "policy": {"model": "smollm2-135m-instruct"},
    "training": {"alpha": 0.05},
}


def card_of(metrics: Metrics, base: str = "smollm2-135m-instruct") -> str:
    return model_card(metrics, base=base, recipe=yaml.safe_dump(RECIPE))


def test_the_hub_reads_the_front_matter(metrics: Metrics) -> None:
    data = front_matter(card_of(metrics))
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert data["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert {"bonbon", "best-of-n", "rank"} <= set(data["tags"])


def test_a_hub_name_is_the_base_model(metrics: Metrics) -> None:
    assert (
        front_matter(card_of(metrics, "EleutherAI/pythia-2.8b"))["base_model"]
        == "EleutherAI/pythia-2.8b"
    )


@pytest.mark.parametrize("policy", ["/models/mine", "./mine", "mine", "a/b/c"])
def test_a_local_model_is_not_passed_off_as_a_hub_name(metrics: Metrics, policy: str) -> None:
    assert "base_model" not in front_matter(card_of(metrics, policy))


def test_a_local_directory_that_looks_like_a_hub_name_is_local(
    metrics: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models/mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert "base_model" not in front_matter(card_of(metrics, "models/mine"))


def test_the_card_holds_what_was_done_and_measured(metrics: Metrics) -> None:
    card = card_of(metrics)
    recipe = card.split("```yaml\n")[1].split("\n```")[0]
    assert yaml.safe_load(recipe) == RECIPE
    for name, row in metrics.methods.items():
        assert f"| {name} | {row.win_rate.value:.3f} |" in card
    assert "| best-of-8 in theory | 0.889 |" in card
    assert "temperature 0.7" in card
    assert "torch 2.13.0+cpu" in card


def test_tables_are_rectangular(metrics: Metrics) -> None:
    rows = [line for line in card_of(metrics).splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(metrics.methods) + 2
    assert len({row.count("|") for row in rows}) == 1


HOSTILE = "a | b\n---\n# *c* <script>d</script> [x](http://e) ![y](z) `f` &amp; $g$ \x1b[2J"


def test_names_are_text_in_the_card(metrics: Metrics) -> None:
    plain = card_of(metrics)
    names = {"name": HOSTILE, "policy": HOSTILE, "reward": HOSTILE}
    recipe = {**RECIPE, "prompts": {"system": f"{HOSTILE}\n```\n# not a title\n````\n<b>"}}
    hostile = metrics.model_copy(update=names)
    card = model_card(hostile, base=RECIPE["policy"]["model"], recipe=yaml.safe_dump(recipe))
    assert front_matter(card) == front_matter(plain)

    markdown = MarkdownIt("commonmark").enable("table")
    body = card.split("---\n", 2)[2]
    html, expected = markdown.render(body), markdown.render(plain.split("---\n", 2)[2])
    for tag in ("<h1>", "<h2>", "<tr>", "<td", "<a ", "<img", "<em>", "<code", "<hr", "<pre>"):
        assert html.count(tag) == expected.count(tag), tag
    assert "<script" not in html
    assert "\x1b" not in card
    assert (
        "a | b --- # *c* &lt;script&gt;d&lt;/script&gt; [x](http://e) ![y](z) `f` &amp;amp;" in html
    )

    (fence,) = [token for token in markdown.parse(body) if token.type == "fence"]
    assert yaml.safe_load(fence.content) == recipe
