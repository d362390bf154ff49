"""The comparison's page: one file that needs nothing but a browser, and its figures for papers."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from bonbon.compare import summary as comparison_words
from bonbon.compare.figures import (
    drift_figure,
    duel_figure,
    over_optimisation_figure,
    styles_of,
    tilt_figure,
    win_rate_figure,
)
from bonbon.compare.schema import GOLD, as_csv, read_comparison
from bonbon.data.atomic_file import replace_text
from bonbon.data.store import CandidateStore
from bonbon.evaluation.metrics import BASE
from bonbon.recipe_io import dump_yaml
from bonbon.records import ScoredGroup
from bonbon.report.figures.style import NARROW, WIDE, write_paper_figure
from bonbon.report.page import both_sheets, render_page
from bonbon.report.samples import browser_data, json_for_script
from bonbon.selection.ranks import tie_rng

PAGE_NAME = "comparison.html"
TABLE_NAME = "comparison.csv"
MOST_SHOWN = 4
"""Answers of one method that the page shows of each prompt."""

Draw = Callable[..., Figure]

FIGURES: dict[str, tuple[Draw, str]] = {
    "win-rate": (win_rate_figure, "Win rate against KL of every method."),
    "tilt": (tilt_figure, "Density of each model's reward quantiles under the base."),
    "drift": (drift_figure, "Win rate against length and other attributes that should stay."),
    "duels": (duel_figure, "Win rate of every method against every other."),
    "over-optimisation": (over_optimisation_figure, "Proxy and gold reward against KL."),
}


def write_comparison(directory: Path) -> Path:
    """Write `comparison.html`, `comparison.csv` and `figures/`, and return the page's path.

    Raises:
        ConfigError: there is no comparison, or it cannot be read.
        BonbonError: stored answers are damaged.
    """
    found = read_comparison(directory)
    drawn = {
        name: figure
        for name, figure in FIGURES.items()
        if name != "over-optimisation" or found["over_optimisation"] is not None
    }
    for name, (draw, _) in drawn.items():
        write_paper_figure(draw(found), directory / "figures" / name)
    replace_text(directory / TABLE_NAME, as_csv(found))
    page = directory / PAGE_NAME
    replace_text(page, _page(directory, found, drawn))
    return page


def _page(directory: Path, found: dict[str, Any], drawn: Mapping[str, tuple[Draw, str]]) -> str:
    held_out = _held_out(directory, found)
    data = browser_data(
        [], held_out, seed=found["seed"], trained=found["leader"], most_shown=MOST_SHOWN
    )
    styles = styles_of(found)
    colours = {name: style.colour.name for name, style in styles.items()}
    figures = {
        name: both_sheets(name, text, [draw(found, sheet=sheet) for sheet in (WIDE, NARROW)])
        for name, (draw, text) in drawn.items()
    }
    recipe = directory / "shared" / "recipe.yaml"
    return render_page(
        "comparison.html.j2",
        found=found,
        words=comparison_words,
        figures=figures,
        colours=colours,
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        compare=dump_yaml({"compare": found["compare"]}),
        csv_link=_download("text/csv", as_csv(found)),
        json_link=_download("application/json", json.dumps(found, allow_nan=False)),
        held_out_only=True,
        trained=found["leader"],
        num_prompts=data["total"],
        attributes=[name for name in found["methods"]["base"]["extra"] if name != GOLD],
        ranking=_ranking(found),
        data=Markup(json_for_script(data | {"trained": found["leader"], "colours": colours})),
    )


def _download(kind: str, text: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _ranking(found: Mapping[str, Any]) -> list[tuple[str, Sequence[float]]]:
    """Return methods with their Bradley–Terry strengths, the strongest first."""
    duels = found["duels"]
    pairs = zip(duels["methods"], duels["strengths"], strict=True)
    return sorted(pairs, key=lambda pair: -pair[1][0])


def _held_out(directory: Path, found: Mapping[str, Any]) -> dict[str, list[ScoredGroup]]:
    """Return what is read side by side: the base's answers, best-of-n's, the models'."""
    base = CandidateStore(directory / "shared").groups("eval-base", found["reward"])
    n = found["n"]
    held_out = {
        BASE: base,
        f"best-of-{n}": [_best(group, n, seed=found["seed"]) for group in base],
    }
    for name, row in found["methods"].items():
        if row["family"] not in {"base", "best-of-n"}:
            store = CandidateStore(directory / "methods" / name)
            held_out[name] = store.groups("eval-bonbon", found["reward"])
    return held_out


def _best(group: ScoredGroup, n: int, *, seed: int) -> ScoredGroup:
    """Return the answer that best-of-n gives, from draws that are not among the shown ones."""
    start = MOST_SHOWN if len(group.rewards) >= MOST_SHOWN + n else 0
    rewards: Sequence[float] = group.rewards[start : start + n]
    (best,) = np.nonzero(np.array(rewards) == max(rewards))
    place = start + int(tie_rng(seed, group.prompt_id).choice(best))
    return ScoredGroup((group.candidates[place],), (group.rewards[place],))
