"""The schema of `comparison.json`, and its table of methods as CSV."""

import csv
import io
from typing import Literal

from pydantic import JsonValue

from bonbon.base_config import AnyPath, as_path
from bonbon.data.store import plain_cell
from bonbon.errors import ConfigError
from bonbon.evaluation.metrics import Point, Result, TrainingSettings, WinRateAndKL, read_result
from bonbon.theory.estimators import Interval

COMPARISON_FILE = "comparison.json"

GOLD = "gold"
"""The extra score that is the gold reward; the others are attributes that should not change."""

BEST_OF_N = "best-of-n"
"""The group of selection at inference."""


class MethodStatistics(WinRateAndKL):
    """One method on the prompts that all methods answered; intervals are 95 % over prompts."""

    group: str
    """Methods of one group are joined by a line; `base` and `best-of-n` are groups too."""
    kl_monte_carlo: Interval
    """The KL by the Monte Carlo estimator; `kl` is the Rao-Blackwell one."""
    kl_from_goal: Interval | None = None
    """KL(goal ‖ method) in nats; null for methods that are not trained."""
    reward: Interval
    """Mean reward."""
    length: Interval
    """Mean length in tokens."""
    length_ratio: Interval
    """Mean length divided by the base's."""
    cut_share: Interval
    """Share of answers that were cut at the length limit."""
    distinct_2: Interval | None = None
    """Share of different word pairs among the answers to a prompt; null for best-of-n."""
    self_chrf: Interval | None = None
    """Mean chrF between two answers to a prompt; null for best-of-n and for single answers."""
    extra: dict[str, Interval]
    """Mean gold reward, under `gold`, and means of the off-target attributes."""
    effective_prompts: float | None
    """How many independent comparisons give the win rate with the same precision; null where it is
    the same on every prompt."""
    detectable: float
    """Smallest true difference from a fixed win rate that is detected with power 0.8."""


class NearestMeasured(Result):
    """The measured KLs that are nearest to the KL of a lead, in nats."""

    reference: float
    """The reference method's."""
    other: float
    """The other group's."""


class Lead(Result):
    """How much more the reference method wins than another group, at equal KL."""

    lead: Interval
    """Win rate of the reference method's group minus the other group's."""
    kl: float
    """The largest KL that both groups reach, in nats."""
    within_noise: bool
    """Whether the interval holds 0."""
    detectable: float
    """Smallest true lead that is detected with power 0.8."""
    nearest: NearestMeasured
    """Where the groups were measured; between such points the win rate is interpolated."""


class PairwiseResults(Result):
    """Win rates of all methods against each other, and Bradley–Terry strengths."""

    methods: list[str]
    """Names of the rows and columns."""
    win_rates: list[list[Interval]]
    """Win rate of the row's method against the column's; ties count one half."""
    strengths: list[Interval]
    """Bradley–Terry strength of each method, in nats above the base's."""


class GoldPoint(Result):
    """Proxy and gold reward of one method, above the base's."""

    kl: float
    """KL from the base in nats."""
    proxy: Interval
    """Mean of the reward that methods are trained on."""
    gold: Interval
    """Mean gold reward."""


class BestOfGold(GoldPoint):
    """Proxy and gold reward of a best-of-n."""

    n: int
    """Number of draws."""


class TrainedGold(GoldPoint):
    """Proxy and gold reward of a trained method."""

    name: str
    """Name of the method."""


class GoldFit(Result):
    """A fitted curve of the gold reward against d = √KL (arXiv 2210.10760)."""

    a: float
    """Gain per √nat at the start."""
    b: float
    """How fast the gain decreases; at or below 0 it never does."""
    residual: float
    """Root mean squared difference from the points."""
    peak_kl: float
    """KL in nats where the fitted gold reward is highest, at most 1e9."""


class GoldFits(Result):
    """The fits of best-of-n and of the trained methods; null for fewer than two different KLs."""

    best_of_n: GoldFit | None
    """d (a − b d)."""
    trained: GoldFit | None
    """d (a − b log d)."""


class OverOptimisation(Result):
    """Proxy and gold reward against KL."""

    base_gold: float
    """Mean gold reward of the base."""
    best_of: list[BestOfGold]
    """Best-of-n for powers of two."""
    trained: list[TrainedGold]
    """The trained methods."""
    fits: GoldFits
    """Curves through the points."""


class ComparisonResult(Result):
    """Everything in `comparison.json`."""

    schema_version: Literal[6] = 6
    """Version of this layout."""
    name: str
    """Name of the comparison."""
    policy: str
    """Model that was trained."""
    reward: str
    """Reward that answers were scored with."""
    n: int
    """n of the best-of-n whose answers the page shows."""
    tilt: str
    """The goal that all methods are compared with, such as `best-of-8`."""
    goals: dict[str, str]
    """Tilt that each trained method is trained towards."""
    training: dict[str, TrainingSettings | None]
    """Training settings of each trained method."""
    temperature: float
    """Sampling temperature of every method."""
    seed: int
    """Seed of the recipe."""
    reference: str
    """The method that is tested against the others at equal KL."""
    num_prompts: int
    """Held-out prompts that all methods are compared on."""
    base_draws: int
    """Answers of the base per prompt, at least."""
    num_left_out: int
    """Held-out prompts that could not be compared on."""
    theory: Point
    """Win rate and KL of the goal, on a reward without ties."""
    goal_density: list[tuple[float, float]]
    """Reward quantile under the base, and the goal's density there."""
    methods: dict[str, MethodStatistics]
    """Every method by name: `base`, each best-of-n, and the trained ones."""
    quantiles: dict[str, list[float]]
    """Density of each trained method's reward quantiles under the base, on equal bins of [0, 1]."""
    leads: dict[str, Lead]
    """The reference method against each other group."""
    pairwise: PairwiseResults
    """All methods against each other."""
    tied_curve: list[Point]
    """Best-of-n for this reward with its ties, n from 1 to 64."""
    over_optimisation: OverOptimisation | None
    """Proxy and gold reward; null without a gold reward."""
    training_seeds: dict[str, list[Point]]
    """Each training run of the methods that were trained several times."""
    cost: dict[str, dict[str, float]]
    """Seconds and amount of work of each trained method's stages."""
    compare: dict[str, JsonValue]
    """The section `compare` of the recipe."""
    versions: dict[str, str]
    """Versions of Python and of the packages that the numbers depend on."""
    date: str
    """Day on which the numbers were computed."""
    machine: str
    """Processor and number of cores."""

    @property
    def trained(self) -> dict[str, MethodStatistics]:
        """The trained methods."""
        return {name: self.methods[name] for name in self.goals}

    @property
    def groups(self) -> dict[str, str]:
        """The group of each method."""
        return {name: row.group for name, row in self.methods.items()}


def read_comparison(directory: AnyPath) -> ComparisonResult:
    """Read and check a comparison.

    Raises:
        ConfigError: there is none, it is damaged, or another version of bonbon wrote it.
    """
    path = as_path(directory) / COMPARISON_FILE
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: run `bonbon compare` first")
    return read_result(path, ComparisonResult, advice="run `bonbon compare` again to rewrite it")


ESTIMATES = (
    "win_rate",
    "kl",
    "kl_monte_carlo",
    "kl_from_goal",
    "reward",
    "length",
    "length_ratio",
    "cut_share",
    "distinct_2",
    "self_chrf",
)
"""Columns of the table, each with its interval."""


def as_csv(result: ComparisonResult) -> str:
    """Return the table of methods as CSV; an estimate and its two bounds are three columns."""
    extras = list(next(iter(result.methods.values())).extra)
    names = [*ESTIMATES, *extras]
    header = ["method", "group"]
    header += [f"{plain_cell(name)}{end}" for name in names for end in ("", "_low", "_high")]
    header += ["effective_prompts", "detectable"]
    header += ["bradley_terry", "bradley_terry_low", "bradley_terry_high"]
    header += ["tokens_sampled", "tokens_trained", "train_seconds", "seed", "bonbon_version"]
    strengths = dict(zip(result.pairwise.methods, result.pairwise.strengths, strict=True))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for method, row in result.methods.items():
        estimates = [getattr(row, name) for name in ESTIMATES]
        estimates += [row.extra.get(name) for name in extras]
        cost = result.cost.get(method, {})
        writer.writerow(
            [
                plain_cell(method),
                plain_cell(row.group),
                *(cell for estimate in estimates for cell in _cells(estimate)),
                row.effective_prompts,
                row.detectable,
                *_cells(strengths[method]),
                *(
                    cost.get(name, "")
                    for name in ("sampled_tokens", "trained_tokens", "train_seconds")
                ),
                result.seed,
                result.versions["bonbon"],
            ]
        )
    return stream.getvalue()


def _cells(estimate: Interval | None) -> tuple[float | str, ...]:
    return ("", "", "") if estimate is None else (estimate.value, estimate.low, estimate.high)
