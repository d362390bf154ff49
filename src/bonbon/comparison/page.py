"""The comparison's page, which is one HTML file without external resources, and its figures."""

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from bonbon.comparison import summary
from bonbon.comparison.figures import (
    drift_figure,
    over_optimisation_figure,
    pairwise_figure,
    styles_of,
    tilt_figure,
    win_rate_figure,
)
from bonbon.comparison.schema import GOLD, ComparisonResult, as_csv, read_comparison
from bonbon.data.atomic_file import replace_text
from bonbon.data.store import CandidateStore
from bonbon.evaluation.metrics import BASE, result_json
from bonbon.recipe_io import dump_yaml
from bonbon.records import ScoredGroup
from bonbon.report.figures.style import NARROW, WIDE, write_paper_figure
from bonbon.report.page import both_sheets, render_page
from bonbon.report.samples import browser_data, json_for_script
from bonbon.selection.ranks import tie_rng
from bonbon.theory.estimators import Interval

PAGE_NAME = "comparison.html"
TABLE_NAME = "comparison.csv"
MOST_SHOWN = 4
"""Most answers of one method that are shown for each prompt."""

Draw = Callable[..., Figure]

FIGURES: dict[str, tuple[Draw, str]] = {
    "win-rate": (win_rate_figure, "Win rate against KL of every method."),
    "tilt": (tilt_figure, "Density of each model's reward quantiles under the base."),
    "drift": (drift_figure, "Win rate against length and other attributes that should not change."),
    "pairwise": (pairwise_figure, "Win rate of every method against every other."),
    "over-optimisation": (over_optimisation_figure, "Proxy and gold reward against KL."),
}


def write_comparison(directory: Path) -> Path:
    """Write `comparison.html`, `comparison.csv` and `figures/`, and return the page's path.

    Raises:
        ConfigError: there is no comparison, or it cannot be read.
        BonbonError: stored answers are damaged.
    """
    result = read_comparison(directory)
    figures = {
        name: figure
        for name, figure in FIGURES.items()
        if name != "over-optimisation" or result.over_optimisation is not None
    }
    for name, (draw, _) in figures.items():
        write_paper_figure(draw(result), directory / "figures" / name)
    replace_text(directory / TABLE_NAME, as_csv(result))
    page = directory / PAGE_NAME
    replace_text(page, _page(directory, result, figures))
    return page


def _page(
    directory: Path, result: ComparisonResult, figures: Mapping[str, tuple[Draw, str]]
) -> str:
    held_out = _held_out(directory, result)
    data = browser_data(
        [], held_out, seed=result.seed, trained=result.reference, most_shown=MOST_SHOWN
    )
    styles = styles_of(result)
    colours = {name: style.colour.name for name, style in styles.items()}
    recipe = directory / "shared" / "recipe.yaml"
    return render_page(
        "comparison.html.j2",
        result=result,
        summary=summary,
        figures={
            name: both_sheets(name, text, [draw(result, sheet=sheet) for sheet in (WIDE, NARROW)])
            for name, (draw, text) in figures.items()
        },
        colours=colours,
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        compare=dump_yaml({"compare": result.compare}),
        csv_link=_download("text/csv", as_csv(result)),
        json_link=_download("application/json", result_json(result)),
        held_out_only=True,
        trained=result.reference,
        num_prompts=data["total"],
        attributes=[name for name in result.methods[BASE].extra if name != GOLD],
        ranking=_ranking(result),
        data=Markup(json_for_script(data | {"trained": result.reference, "colours": colours})),
    )


def _download(kind: str, text: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _ranking(result: ComparisonResult) -> list[tuple[str, Interval]]:
    """Return methods with their Bradley–Terry strengths, the strongest first."""
    pairs = zip(result.pairwise.methods, result.pairwise.strengths, strict=True)
    return sorted(pairs, key=lambda pair: -pair[1].value)


def _held_out(directory: Path, result: ComparisonResult) -> dict[str, list[ScoredGroup]]:
    """Return the answers that the page shows: those of the base, of best-of-n and of the models."""
    base = CandidateStore(directory / "shared").groups("eval-base", result.reward)
    n = result.n
    held_out = {
        BASE: base,
        f"best-of-{n}": [_best(group, n, seed=result.seed) for group in base],
    }
    for name in result.trained:
        store = CandidateStore(directory / "methods" / name)
        held_out[name] = store.groups("eval-bonbon", result.reward)
    return held_out


def _best(group: ScoredGroup, n: int, *, seed: int) -> ScoredGroup:
    """Return the answer that best-of-n gives, from draws that are not shown themselves."""
    start = MOST_SHOWN if len(group.rewards) >= MOST_SHOWN + n else 0
    rewards: Sequence[float] = group.rewards[start : start + n]
    (best,) = np.nonzero(np.array(rewards) == max(rewards))
    index = start + int(tie_rng(seed, group.prompt_id).choice(best))
    return ScoredGroup((group.candidates[index],), (group.rewards[index],))
