"""The report page of a run: one HTML file without external resources."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from bonbon.data.atomic_file import replace_text
from bonbon.data.store import CandidateStore
from bonbon.evaluation.metrics import (
    BASE,
    FRONTIER_FILE,
    REPORT_FILE,
    TRAINED,
    Metrics,
    read_metrics,
)
from bonbon.records import ScoredGroup
from bonbon.report import summary
from bonbon.report.figures.frontier import frontier
from bonbon.report.figures.rewards import (
    RewardSample,
    best_of_rewards,
    drawn_rewards,
    reward_histograms,
)
from bonbon.report.figures.style import (
    NARROW,
    WIDE,
    Sheet,
    inline_svg,
    method_styles,
    svg_document,
    theme_css,
)
from bonbon.report.figures.training import (
    LogEntry,
    fitted_quantity,
    read_training_log,
    training_curves,
)
from bonbon.report.samples import browser_data, json_for_script

_UNITS = ("tokens", "completions")


@dataclass(frozen=True, slots=True)
class StageCost:
    """Time and work of one stage; `amount` counts `unit`, and is None where nothing was counted."""

    stage: str
    seconds: float
    amount: int | None = None
    unit: str = ""

    @property
    def time(self) -> str:
        """Duration in minutes and seconds."""
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{minutes} min {seconds} s" if minutes else f"{self.seconds:.1f} s"

    @property
    def work(self) -> str:
        """Amount with its rate, or an empty text."""
        if self.amount is None:
            return ""
        rate = f", {self.amount / self.seconds:,.0f} per second" if self.seconds > 0 else ""
        return f"{self.amount:,} {self.unit}{rate}"


def stage_costs(metrics: Metrics) -> list[StageCost]:
    """Return time and work of each stage, from `<stage>_seconds` and `<stage>ed_<unit>`."""
    timing, suffix = metrics.timing, "_seconds"
    stages = [key.removesuffix(suffix) for key in timing if key.endswith(suffix)]
    return [_stage_cost(timing, stage, timing[stage + suffix]) for stage in stages]


def _stage_cost(timing: dict[str, float], stage: str, seconds: float) -> StageCost:
    for unit in _UNITS:
        key = f"{stage.removesuffix('e')}ed_{unit}"
        if key in timing:
            return StageCost(stage, seconds, int(timing[key]), unit)
    return StageCost(stage, seconds)


@dataclass(frozen=True)
class RunContents:
    """What a run directory holds for its report; what is missing is empty."""

    metrics: Metrics
    recipe: str
    log: Sequence[LogEntry]
    train: Sequence[ScoredGroup]
    held_out: Mapping[str, Sequence[ScoredGroup]]


def write_report(run_directory: Path) -> Path:
    """Write `report.html` from what the run directory holds, and return its path.

    The first figure is also written to `frontier.svg`.

    Raises:
        ConfigError: there are no metrics yet, or they cannot be read.
        BonbonError: candidates are damaged or not scored.
    """
    path, run = run_directory / REPORT_FILE, read_run(run_directory)
    drawing = svg_document(frontier(run.metrics), description=_frontier_text(run))
    replace_text(run_directory / FRONTIER_FILE, drawing)
    replace_text(path, report_html(run))
    return path


def read_run(run_directory: Path) -> RunContents:
    """Read a run directory for its report."""
    metrics = read_metrics(run_directory)
    store = CandidateStore(run_directory)
    held_out = {name: _groups(store, f"eval-{name}", metrics) for name in (BASE, TRAINED)}
    recipe = run_directory / "recipe.yaml"
    return RunContents(
        metrics=metrics,
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        log=read_training_log(run_directory),
        train=_groups(store, "train", metrics),
        held_out={name: groups for name, groups in held_out.items() if groups},
    )


def _groups(store: CandidateStore, set_name: str, metrics: Metrics) -> list[ScoredGroup]:
    drawn = bool(store.finished_shards(set_name))
    return store.groups(set_name, metrics.reward) if drawn else []


def report_html(run: RunContents) -> str:
    """Return the page."""
    data = browser_data(run.train, run.held_out, seed=run.metrics.seed)
    styles = method_styles(list(run.metrics.methods))
    colours = {name: style.colour.name for name, style in styles.items()}
    return render_page(
        "report.html.j2",
        metrics=run.metrics,
        recipe=run.recipe,
        summary=summary,
        costs=stage_costs(run.metrics),
        colours=colours,
        figures=_figures(run),
        fits_residual=fitted_quantity(run.log) == "residual_variance",
        held_out_only=False,
        trained=TRAINED,
        num_prompts=data["total"],
        data=Markup(json_for_script(data | {"trained": TRAINED, "colours": colours})),
    )


def render_page(template: str, **values: object) -> str:
    """Fill a template with its values and with what all pages share: style, themes, script."""
    environment = Environment(
        loader=PackageLoader("bonbon.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    script = _asset("report.js")
    return environment.get_template(template).render(
        style=Markup(_asset("report.css")),
        light=Markup(theme_css("light")),
        dark=Markup(theme_css("dark")),
        script=Markup(script),
        script_hash=_sha256(script),
        **values,
    )


def _asset(name: str) -> str:
    return files("bonbon.report").joinpath("templates", name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    """Return the hash by which the page's content security policy allows this script only."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _figures(run: RunContents) -> dict[str, Markup]:
    """Draw every figure that there is data for, for wide and for narrow screens."""
    figures = {"frontier": both_sheets("frontier", _frontier_text(run), _frontiers(run))}
    if run.held_out:
        figures["rewards"] = both_sheets("rewards", _REWARDS_TEXT, _histograms(run))
    if run.log:
        figures["training"] = both_sheets("training", _TRAINING_TEXT, _training(run))
    return figures


_REWARDS_TEXT = "Histograms of rewards: base, best-of-n and the trained model, one above the other."
_TRAINING_TEXT = (
    "Training curves by step: fit of the objective, and log-ratios of the best and the worst."
)


def _frontier_text(run: RunContents) -> str:
    points = [
        f"{name}: win rate {row.win_rate.value:.3f} at KL {row.kl.value:.2f}"
        for name, row in run.metrics.methods.items()
    ]
    return f"Win rate against KL. {'; '.join(points)}."


def _frontiers(run: RunContents) -> list[Figure]:
    return [frontier(run.metrics, sheet=sheet) for sheet in (WIDE, NARROW)]


def _training(run: RunContents) -> list[Figure]:
    sheets = (Sheet(WIDE.width, 3.8), Sheet(NARROW.width, 6.4))
    return [training_curves(run.log, sheet=sheet) for sheet in sheets]


def _histograms(run: RunContents) -> list[Figure]:
    samples = reward_samples(run)
    sheets = (Sheet(sheet.width, 0.6 + 1.4 * len(samples)) for sheet in (WIDE, NARROW))
    return [reward_histograms(samples, sheet=sheet) for sheet in sheets]


def reward_samples(run: RunContents) -> dict[str, RewardSample]:
    """Return the held-out rewards of the base, of best-of-n from its draws, and of the model."""
    samples = {name: drawn_rewards(groups) for name, groups in run.held_out.items()}
    if BASE not in run.held_out:
        return samples
    n = run.metrics.n
    best = best_of_rewards(run.held_out[BASE], n)
    return {BASE: samples.pop(BASE), f"best-of-{n}": best, **samples}


def both_sheets(name: str, description: str, figures: Sequence[Figure]) -> Markup:
    """Put the wide and the narrow drawing side by side; the style sheet shows one of them."""
    drawings = [
        (size, inline_svg(figure, name=f"{name}-{size}", description=description))
        for size, figure in zip(("wide", "narrow"), figures, strict=True)
    ]
    return Markup("".join(f'<div class="{size}">{svg}</div>' for size, svg in drawings))
