"""The model card: how a model was trained and what was measured."""

import re
from pathlib import Path

from bonbon.console import shown
from bonbon.evaluation.metrics import Metrics
from bonbon.recipe_io import dump_yaml
from bonbon.report.summary import (
    GLOSSARY,
    aim,
    headline,
    highest_at_this_kl,
    interval_text,
    outcome,
    percent,
    replaces_best_of,
    tied_name,
    unscored,
    worth,
)

HUB_NAMES = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Where a bundled policy comes from; its short name means nothing on the hub."""

_MARKDOWN = re.compile(r"[\\`*_{}\[\]#|~!$]")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_card(metrics: Metrics, *, base: str, recipe: str) -> str:
    """Return the text of the model's `README.md`, with front matter that the hub reads.

    Args:
        metrics: the run's numbers.
        base: the policy before training, as the recipe names it.
        recipe: the complete recipe as YAML.
    """
    front_matter = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        **({"base_model": name} if (name := _hub_name(base)) else {}),
        "tags": ["bonbon", "best-of-n", "alignment", metrics.objective],
    }
    metrics = _as_markdown(metrics)
    sections = [
        f"---\n{dump_yaml(front_matter).strip()}\n---",
        f"# {metrics.name}: {metrics.policy} towards {metrics.tilt}",
        f"{headline(metrics)} {aim(metrics)}",
        f"## What was measured\n\n{_measured(metrics)}",
        _table(metrics),
        "\n".join(f"- *{term}*: {meaning}" for term, meaning in GLOSSARY.items()),
        f"## How to sample from it\n\n{_sampling(metrics)}",
        f"## How it was trained\n\nWith {_versions(metrics)}.\n\n{_fenced(recipe.strip())}",
        f"## The method\n\n{_METHOD}",
    ]
    return "\n\n".join(sections) + "\n"


def _as_markdown(metrics: Metrics) -> Metrics:
    """Return metrics whose names are plain text in Markdown; a tilt's name always is."""
    names = {"name": metrics.name, "policy": metrics.policy, "reward": metrics.reward}
    return metrics.model_copy(update={key: _escaped(text) for key, text in names.items()})


def _escaped(text: str) -> str:
    """Return text in which no character is Markdown or HTML."""
    text = _MARKDOWN.sub(r"\\\g<0>", " ".join(shown(text).split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _fenced(settings: str) -> str:
    """Return YAML as a code block that no backticks inside it can end."""
    longest = max((len(row) for row in re.findall("`+", settings)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}yaml\n{settings}\n{fence}"


def _measured(metrics: Metrics) -> str:
    parts = (outcome, worth, highest_at_this_kl, unscored)
    return " ".join(filter(None, (part(metrics) for part in parts)))


_METHOD = (
    "Gui, Gârbacea and Veitch, *BoNBoN Alignment for Large Language Models and the Sweetness of "
    "Best-of-n Sampling*, 2024, [arXiv:2406.00832](https://arxiv.org/abs/2406.00832)."
)


def _hub_name(policy: str) -> str | None:
    """Name the base only if its name means something to others; a local directory does not."""
    name = HUB_NAMES.get(policy, policy)
    return name if _HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def _table(metrics: Metrics) -> str:
    theory, tied = metrics.theory, metrics.theory.tie_corrected
    header = (
        "| | win rate | 95 % | KL, nats | 95 % | mean reward | mean tokens | cut |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    rows = [
        f"| {name} | {row.win_rate.value:.3f} | {interval_text(row.win_rate)} "
        f"| {row.kl.value:.3f} | {interval_text(row.kl)} | {row.mean_reward.value:.3f} "
        f"| {row.mean_length:.1f} | {percent(row.cut_share)} |"
        for name, row in metrics.methods.items()
    ]
    return "\n".join(
        [
            header,
            *rows,
            f"| {metrics.tilt} in theory | {theory.win_rate:.3f} | | {theory.kl:.3f} | | | | |",
            f"| {tied_name(metrics)} with ties "
            f"| {tied.win_rate.value:.3f} | {interval_text(tied.win_rate)} "
            f"| {tied.kl.value:.3f} | {interval_text(tied.kl)} | | | |",
        ]
    )


def _sampling(metrics: Metrics) -> str:
    single = f"Drawing {metrics.n} answers and choosing the best is not needed. "
    return (
        f"Sample one answer at temperature {metrics.temperature:g}, without top-k or top-p. The "
        "generation config is set to this; the temperature is part of the policy that was trained "
        f"and measured. {single if replaces_best_of(metrics) else ''}The model was trained for one "
        f"reward, {metrics.reward}. It was not trained for qualities that this reward does not "
        "measure, and it has learnt the reward's errors too."
    )


def _versions(metrics: Metrics) -> str:
    return ", ".join(f"{name} {version}" for name, version in metrics.versions.items())
