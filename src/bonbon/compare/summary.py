"""What a comparison's numbers say, in sentences."""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from bonbon.console import shown
from bonbon.evaluation.metrics import Training
from bonbon.report.diagnosis import Measured
from bonbon.report.summary import finding, interval_text, nats, remedy
from bonbon.report.terminal import as_title
from bonbon.theory.parse import parse_tilt

Found = Mapping[str, Any]

SIGHT = 4.0
"""How many times the largest KL measured a fit is believed in."""

NEAR = 1.5
"""Within which factor of a KL a method was measured at it."""


def headline(found: Found) -> str:
    """Say what became of the leading method, and whom it beats at equal KL."""
    verdict = finding(measured(found, found["leader"]), name=found["leader"])
    return " ".join([verdict, *_standing(found)])


def advice(found: Found) -> str | None:
    """Say which of the leader's settings to change, None where nothing is amiss."""
    return remedy(measured(found, found["leader"]), _training(found, found["leader"]))


def _training(found: Found, name: str) -> Training | None:
    """Return the settings of a method; comparisons of earlier versions do not tell them."""
    return found.get("training", {}).get(name)


def measured(found: Found, name: str) -> Measured:
    """Return what a trained method's diagnosis rests on."""
    row, aim = found["methods"][name], found["aims"][name]
    goal = parse_tilt(aim)
    win_rate, low, high = (goal.win_rate,) * 3
    with_ties = goal.kl
    if aim in found["methods"]:
        win_rate, low, high = found["methods"][aim]["win_rate"]
        with_ties = min(goal.kl, found["methods"][aim]["kl"][0])
    return Measured(
        win_rate=row["win_rate"][0],
        win_rate_ci=tuple(row["win_rate"][1:]),
        kl=row["kl"][0],
        kl_ci=tuple(row["kl"][1:]),
        num_prompts=found["num_prompts"],
        goal=aim,
        goal_win_rate=win_rate,
        goal_win_rate_ci=(low, high),
        goal_kl=goal.kl,
        goal_kl_with_ties=with_ties,
        aimed="beta" not in (_training(found, name) or {}),
    )


class Lead(Enum):
    """What the interval of a lead at equal KL says."""

    AHEAD = "it beats"
    BEHIND = "it is beaten by"
    EVEN = "it cannot be told apart from"
    UNMEASURED = "there is no verdict against"


def lead_of(one: Mapping[str, Any]) -> Lead:
    """Read one lead: its interval, and whether who is behind was measured near that KL."""
    value, low, high = one["lead"]
    nearest = one["nearest"]["leader" if value < 0 else "other"]
    if one["kl"] <= 0 or not one["kl"] / NEAR <= nearest <= one["kl"] * NEAR:
        return Lead.UNMEASURED
    if low <= 0 <= high:
        return Lead.EVEN
    return Lead.AHEAD if value > 0 else Lead.BEHIND


def _standing(found: Found) -> list[str]:
    """Say in a sentence whom the leader beats at equal KL and who beats it."""
    families: dict[Lead, list[str]] = {}
    for family, one in found["leads"].items():
        families.setdefault(lead_of(one), []).append(family)
    said = [f"{lead.value} {', '.join(families[lead])}" for lead in Lead if lead in families]
    return [f"At equal KL {'; '.join(said)}."] if said else []


def lede(found: Found) -> str:
    """Say what was compared, and on what."""
    trained = sum(row["family"] not in {"base", "best-of-n"} for row in found["methods"].values())
    goal = found["theory"]
    return (
        f"{trained} trained methods and best-of-n at inference, on the same candidates of "
        f"{found['policy']} and the same {found['num_prompts']} held-out prompts. The goal, "
        f"{found['tilt']} by {found['reward']}, wins {goal['win_rate']:.1%} at {goal['kl']:.2f} "
        f"nats.{_aim(found)}"
    )


def _aim(found: Found) -> str:
    """Say what the leader is trained towards, if it is not the goal."""
    leader = found["leader"]
    aim = found["aims"][leader]
    return "" if aim == found["tilt"] else f" {leader} is trained towards {aim}."


def lead_lines(found: Found) -> list[str]:
    """Say of every other family whether the leader beats it at equal KL, and by how much."""
    return [_lead_line(found["leader"], *item) for item in found["leads"].items()]


def _lead_line(leader: str, family: str, one: Mapping[str, Any]) -> str:
    """Name first who is ahead; the interval is of the lead of that one."""
    value, low, high = one["lead"]
    ahead, behind = leader, family
    if value < 0:
        ahead, behind, value, low, high = family, leader, -value, -high, -low
    lead = f"{value:.3f} {interval_text((low, high))}"
    match lead_of(one):
        case Lead.UNMEASURED if one["kl"] <= 0:
            return f"{leader} and {family} cannot be compared: one of them is still the base."
        case Lead.UNMEASURED:
            nearest = one["nearest"]["other" if behind == family else "leader"]
            return (
                f"At {nats(one['kl'])} {ahead} is ahead of {behind} by {lead} on straight lines, "
                f"which is no verdict: {behind} was measured at {nats(nearest)} at the nearest, "
                "and its line lies below what it wins between."
            )
        case Lead.EVEN:
            return f"At {nats(one['kl'])} {ahead} is ahead of {behind} by {lead}: within noise."
        case _:
            return f"At {nats(one['kl'])} {ahead} beats {behind} by {lead}."


def seed_lines(found: Found) -> list[str]:
    """Say how far training seeds spread, or that nothing here tells."""
    if not found["seeds"]:
        return [
            "Each method was trained once: intervals say what other prompts would change, not what "
            "another training run would; `--seeds 3` tells."
        ]
    return [
        f"{name}: win rate {min(w for _, w in points):.3f} to {max(w for _, w in points):.3f}, KL "
        f"{min(k for k, _ in points):.2f} to {max(k for k, _ in points):.2f} over {len(points)} "
        "training seeds."
        for name, points in found["seeds"].items()
    ]


def precision(found: Found) -> str:
    """Say what differences these prompts can show."""
    row = found["methods"][found["leader"]]
    if row["effective_prompts"] is None:
        return f"{found['leader']} wins as often on every prompt."
    return (
        f"For {found['leader']} the {found['num_prompts']} prompts are worth "
        f"{row['effective_prompts']:.0f} single comparisons: a win rate {row['detectable']:.3f} "
        f"away from a given number would be found 8 times of 10{_detectable_leads(found)}."
    )


def _detectable_leads(found: Found) -> str:
    needed = [one["detectable"] for one in found["leads"].values()]
    if not needed:
        return ""
    low, high = f"{min(needed):.3f}", f"{max(needed):.3f}"
    return f", and a lead of {low if low == high else f'{low} to {high}'} over another method"


def left_out(found: Found) -> str | None:
    """Say how many prompts could not be compared on, None if all could."""
    if not found["num_left_out"]:
        return None
    return (
        f"{found['num_left_out']} more held-out prompts are left out: too few scored answers, or "
        "an answer without one of the scores."
    )


def kl_check(found: Found) -> str:
    """Say whether the two estimators of KL agree."""
    apart = [
        name
        for name, row in found["methods"].items()
        if row["kl"][1] > row["kl_monte_carlo"][2] or row["kl_monte_carlo"][1] > row["kl"][2]
    ]
    if not apart:
        return "Both estimators of KL, Monte Carlo and Rao-Blackwell, agree within their intervals."
    return f"The two estimators of KL disagree for {', '.join(apart)}: draw more answers."


def over_optimisation(found: Found) -> str:
    """Say where the fits turn."""
    data = found["over_optimisation"]
    parts: list[str] = []
    for form, name, points in (
        ("best-of-n", "best-of-n", data["best_of"]),
        ("rl", "all trained models together", data["trained"]),
    ):
        fit = data["fits"][form]
        if fit is not None:
            farthest = max(point["kl"] for point in points)
            turn = "no turn in sight"
            if fit["b"] > 0 and fit["peak_kl"] < SIGHT * farthest:
                turn = f"a turn at {fit['peak_kl']:.1f} nats"
            parts.append(f"{name}: a = {fit['a']:.3f}, b = {fit['b']:.3f}, {turn}")
    return "; ".join(parts) + "." if parts else "Too few points to fit."


def comparison_table(found: Mapping[str, Any]) -> Table:
    """Return the methods as rows, estimates with 95 % intervals."""
    title = f"Towards {found['tilt']} by {found['reward']}: {found['num_prompts']} held-out prompts"
    table = Table(title=as_title(title), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("win rate", "KL, nats", "KL(goal ‖ π)", "length"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in found["methods"].items():
        table.add_row(
            Text(shown(name)),
            _cell(row["win_rate"], 3),
            _cell(row["kl"], 2),
            _cell(row["kl_from_goal"], 2),
            f"{row['length_ratio'][0]:.2f} ×",
            style="bold" if name == found["leader"] else None,
        )
    return table


def comparison_lines(found: Mapping[str, Any]) -> list[str]:
    """Return what the comparison shows, a line each."""
    said = [headline(found), advice(found), *lead_lines(found), *seed_lines(found)]
    said += [left_out(found), kl_check(found)]
    return [line for line in said if line]


def _cell(estimate: tuple[float, float, float] | None, digits: int) -> str:
    if estimate is None:
        return ""
    value, low, high = (f"{number:.{digits}f}" for number in estimate)
    return f"{value}\n[{low}, {high}]" if estimate[2] > estimate[1] else value
