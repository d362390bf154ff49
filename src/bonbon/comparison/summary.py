"""Sentences about the numbers of a comparison, and its table in a terminal."""

from enum import Enum

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bonbon.comparison.schema import ComparisonResult, Lead
from bonbon.console import shown
from bonbon.report.diagnosis import Measured
from bonbon.report.summary import finding, nats, remedy, with_interval
from bonbon.report.terminal import as_title
from bonbon.theory.estimators import Interval
from bonbon.theory.parse import parse_tilt

TRUSTED_RANGE = 4.0
"""A fit is trusted up to this multiple of the largest measured KL."""

NEAR = 1.5
"""A method counts as measured at a KL if one of its points is within this factor of it."""


def headline(result: ComparisonResult) -> str:
    """Say what training did to the reference method, and which groups it beats at equal KL."""
    sentence = finding(measured(result, result.reference), name=result.reference)
    groups: dict[Verdict, list[str]] = {}
    for group, lead in result.leads.items():
        groups.setdefault(verdict_of(lead), []).append(group)
    parts = [
        f"{verdict.value} {', '.join(groups[verdict])}" for verdict in Verdict if verdict in groups
    ]
    return f"{sentence} At equal KL {'; '.join(parts)}." if parts else sentence


def advice(result: ComparisonResult) -> str | None:
    """Say which setting of the reference method to change, None if nothing is wrong."""
    name = result.reference
    return remedy(measured(result, name), result.training.get(name))


def measured(result: ComparisonResult, name: str) -> Measured:
    """Return the numbers that a trained method's diagnosis rests on."""
    row, goal_name = result.methods[name], result.goals[name]
    goal, training = parse_tilt(goal_name), result.training.get(name)
    win_rate = Interval(goal.win_rate, goal.win_rate, goal.win_rate)
    kl_with_ties = goal.kl
    if goal_name in result.methods:
        win_rate = result.methods[goal_name].win_rate
        kl_with_ties = min(goal.kl, result.methods[goal_name].kl.value)
    return Measured(
        win_rate=row.win_rate,
        kl=row.kl,
        num_prompts=result.num_prompts,
        goal=goal_name,
        goal_win_rate=win_rate,
        goal_kl=goal.kl,
        goal_kl_with_ties=kl_with_ties,
        trained_to_goal=training is None or training.beta is None,
    )


class Verdict(Enum):
    """What the interval of a lead at equal KL says of the reference method."""

    AHEAD = "it beats"
    BEHIND = "it is beaten by"
    EVEN = "it does not differ significantly from"
    UNMEASURED = "it cannot be compared reliably with"


def verdict_of(lead: Lead) -> Verdict:
    """Read a lead: its interval, and whether the method that is behind was measured near that KL.

    Interpolated win rates are lower bounds, so only the one that is behind must be measured there.
    """
    nearest = lead.nearest.reference if lead.lead.value < 0 else lead.nearest.other
    if lead.kl <= 0 or not lead.kl / NEAR <= nearest <= lead.kl * NEAR:
        return Verdict.UNMEASURED
    if lead.lead.low <= 0 <= lead.lead.high:
        return Verdict.EVEN
    return Verdict.AHEAD if lead.lead.value > 0 else Verdict.BEHIND


def introduction(result: ComparisonResult) -> str:
    """Say what was compared, and on what."""
    goal, reference = result.theory, result.reference
    own_goal = result.goals[reference]
    text = (
        f"{len(result.goals)} trained methods and best-of-n at inference were compared on the same "
        f"candidates of {result.policy} and the same {result.num_prompts} held-out prompts. The "
        f"goal is {result.tilt} by {result.reward}, which has a win rate of {goal.win_rate:.1%} at "
        f"{goal.kl:.2f} nats."
    )
    return text if own_goal == result.tilt else f"{text} {reference} is trained towards {own_goal}."


def lead_lines(result: ComparisonResult) -> list[str]:
    """Say for every other group whether the reference method beats it at equal KL."""
    return [_lead_line(result.reference, group, lead) for group, lead in result.leads.items()]


def _lead_line(reference: str, group: str, lead: Lead) -> str:
    """Name the method that is ahead first; the interval is of its lead."""
    margin, (ahead, behind) = lead.lead, (reference, group)
    nearest = lead.nearest.other
    if margin.value < 0:
        margin = Interval(-margin.value, -margin.high, -margin.low)
        (ahead, behind), nearest = (group, reference), lead.nearest.reference
    verdict, kl, by = verdict_of(lead), nats(lead.kl), with_interval(margin)
    if verdict is Verdict.UNMEASURED and lead.kl <= 0:
        return f"{reference} and {group} cannot be compared: one of them is still the base."
    if verdict is Verdict.UNMEASURED:
        return (
            f"At {kl} {ahead} is ahead of {behind} by {by}, but only by interpolation: the nearest "
            f"{behind} run is at {nats(nearest)}, so this comparison is not reliable."
        )
    if verdict is Verdict.EVEN:
        return f"At {kl} {ahead} is ahead of {behind} by {by}, which is within noise."
    return f"At {kl} {ahead} beats {behind} by {by}."


def seed_lines(result: ComparisonResult) -> list[str]:
    """Say how much training seeds differ, or that each method was trained once."""
    if not result.training_seeds:
        return [
            "Each method was trained once. The intervals show the variation between prompts, not "
            "between training runs; `--seeds 3` measures that."
        ]
    lines: list[str] = []
    for name, points in result.training_seeds.items():
        wins, kls = [point.win_rate for point in points], [point.kl for point in points]
        lines.append(
            f"{name}: win rate {min(wins):.3f} to {max(wins):.3f}, KL {min(kls):.2f} to "
            f"{max(kls):.2f} over {len(points)} training seeds."
        )
    return lines


def precision(result: ComparisonResult) -> str:
    """Say which differences these prompts can show."""
    row = result.methods[result.reference]
    if row.effective_prompts is None:
        return f"{result.reference} has the same win rate on every prompt."
    leads = ""
    if result.leads:
        needed = [lead.detectable for lead in result.leads.values()]
        low, high = f"{min(needed):.3f}", f"{max(needed):.3f}"
        leads = f", and so is a lead of {low if low == high else f'{low} to {high}'}"
    return (
        f"For {result.reference} the {result.num_prompts} prompts are as precise as "
        f"{row.effective_prompts:.0f} independent comparisons. A true difference of "
        f"{row.detectable:.3f} from a fixed win rate is detected with a probability of 0.8{leads}."
    )


def left_out(result: ComparisonResult) -> str | None:
    """Say how many prompts could not be compared on, None if all could."""
    if not result.num_left_out:
        return None
    return (
        f"{result.num_left_out} more held-out prompts are left out: they have too few scored "
        "answers, or an answer without one of the scores."
    )


def kl_check(result: ComparisonResult) -> str:
    """Say whether the two estimators of KL agree."""
    differ = [
        name
        for name, row in result.methods.items()
        if row.kl.low > row.kl_monte_carlo.high or row.kl_monte_carlo.low > row.kl.high
    ]
    if not differ:
        return "Both estimators of KL, Monte Carlo and Rao-Blackwell, agree within their intervals."
    return f"The two estimators of KL disagree for {', '.join(differ)}: draw more answers."


def over_optimisation(result: ComparisonResult) -> str:
    """Give the fits of the gold reward, and where they turn."""
    data = result.over_optimisation
    assert data is not None, "asked only with a gold reward"
    parts: list[str] = []
    for name, fit, points in (
        ("best-of-n", data.fits.best_of_n, data.best_of),
        ("all trained methods together", data.fits.trained, data.trained),
    ):
        if fit is not None:
            farthest = max(point.kl for point in points)
            turn = "no maximum in range"
            if fit.b > 0 and fit.peak_kl < TRUSTED_RANGE * farthest:
                turn = f"maximum at {fit.peak_kl:.1f} nats"
            parts.append(f"{name}: a = {fit.a:.3f}, b = {fit.b:.3f}, {turn}")
    return "; ".join(parts) + "." if parts else "There are too few points for a fit."


def comparison_table(result: ComparisonResult) -> Table:
    """Return the methods as rows, estimates with 95 % intervals."""
    title = f"{result.tilt} by {result.reward}: {result.num_prompts} held-out prompts"
    table = Table(title=as_title(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("win rate", "KL, nats", "KL(goal ‖ π)", "length"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in result.methods.items():
        table.add_row(
            Text(shown(name)),
            _cell(row.win_rate, 3),
            _cell(row.kl, 2),
            _cell(row.kl_from_goal, 2),
            f"{row.length_ratio.value:.2f} ×",
            style="bold" if name == result.reference else None,
        )
    return table


def comparison_lines(result: ComparisonResult) -> list[str]:
    """Return what the comparison shows, a line each."""
    lines = [headline(result), advice(result), *lead_lines(result), *seed_lines(result)]
    lines += [left_out(result), kl_check(result)]
    return [line for line in lines if line]


def _cell(estimate: Interval | None, digits: int) -> str:
    if estimate is None:
        return ""
    value = f"{estimate.value:.{digits}f}"
    if estimate.high - estimate.low < 1e-9:  # known, not estimated
        return value
    return f"{value}\n[{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
