"""What the numbers mean, in sentences that claim no more than the intervals allow."""

from bonbon.report.bounds import highest_win_rate
from bonbon.report.metrics import BASE, TRAINED, Interval, Metrics
from bonbon.report.palette import is_best_of
from bonbon.theory.best_of import BestOf

MAX_DRAWS = 1000.0


def headline(metrics: Metrics) -> str:
    """Say in one sentence whether training worked."""
    row = metrics["methods"][TRAINED]
    low, high = row["win_rate_ci"]
    if low > 0.5:
        return f"The trained model beats its base {percent(row['win_rate'])} of the time."
    if high < 0.5:
        return "The trained model answers worse than its base."
    return "The trained model cannot be told apart from its base."


def aim(metrics: Metrics) -> str:
    """Say what was trained towards what."""
    return (
        f"The aim: one draw from {metrics['policy']} that is as good as {metrics['tilt']}. It was "
        f"trained with the objective ‘{metrics['objective']}’ on {metrics['n']} draws per prompt, "
        f"ranked by the reward ‘{metrics['reward']}’."
    )


def outcome(metrics: Metrics) -> str:
    """Say what came out: win rate and KL with their intervals."""
    row = metrics["methods"][TRAINED]
    return (
        f"On {row['num_prompts']} held-out prompts, {row['samples_per_prompt']} answers each, its "
        f"win rate against the base is {with_interval(row['win_rate'], row['win_rate_ci'])}, "
        f"and its KL from the base is {with_interval(row['kl'], row['kl_ci'], digits=2)} nats."
    )


def worth(metrics: Metrics) -> str:
    """Translate the win rate into draws, beside what best-of-n costs and gets."""
    row = metrics["methods"][TRAINED]
    low, high = row["win_rate_ci"]
    if high < 0.5:
        return "Training moved it the wrong way: look at the training curves before anything else."
    if low <= 0.5:
        return (
            "The interval holds 0.5, so this run does not show that training helped; "
            "more prompts, in training or in evaluation, can settle it."
        )
    draws = (
        f"In theory, one answer of it is worth the best of {draws_text(row['win_rate'])} draws of "
        f"the base (95 % interval {draws_text(low)} to {draws_text(high)}), "
        "for the price of one draw."
    )
    return " ".join([draws, *_against_best_of(metrics)])


def _against_best_of(metrics: Metrics) -> list[str]:
    """Compare with selection from the same n at inference, where it was measured."""
    name, row = f"best-of-{metrics['n']}", metrics["methods"][TRAINED]
    if name not in metrics["methods"]:
        return []
    selected = metrics["methods"][name]
    measured = f"{name[0].upper()}{name[1:]} itself wins {selected['win_rate']:.3f}"
    cost = f"at {metrics['n']} times the sampling cost"
    if row["win_rate_ci"][1] >= selected["win_rate_ci"][0]:
        return [f"{measured}, {cost}: within the intervals, the trained model is as good."]
    share = (row["win_rate"] - 0.5) / (selected["win_rate"] - 0.5)
    return [f"{measured}, {cost}; the trained model has {percent(share)} of that gain over 0.5."]


def room(metrics: Metrics) -> str:
    """Say how much any policy could win at the trained model's KL."""
    row = metrics["methods"][TRAINED]
    most = highest_win_rate(row["kl"])
    bound = f"No policy {row['kl']:.2f} nats from its base can win more than {most:.3f}"
    if row["win_rate_ci"][1] >= most:
        return f"{bound}."
    gain = most - row["win_rate"]
    return f"{bound}: the {gain:.3f} between is what better training can still gain at this KL."


def unscored(metrics: Metrics) -> str | None:
    """Say how many answers the reward gave no score, None if there are none."""
    counts = {name: count for name, count in metrics.get("no_score", {}).items() if count}
    if not counts:
        return None
    listed = ", ".join(f"{count} of the set {name}" for name, count in counts.items())
    return f"The reward gave no score to {listed}: those answers are in no ranking and no mean."


GLOSSARY = {
    "Win rate": (
        "how often an answer’s reward is above that of an answer of the base to the same prompt; "
        "ties count one half, so the base itself has 0.5."
    ),
    "KL": (
        "how far the method’s distribution of answers has moved from the base’s, in nats. "
        "Less is safer: what the reward does not see drifts with it."
    ),
    "95 % interval": "what resampling the prompts gives; prompts are the independent unit.",
    "In theory": "the tilt’s own win rate and KL, on a reward that never ties.",
    "With ties": (
        "best-of-n’s on this reward: where answers tie there is less to choose from, "
        "so this is what training can be measured against."
    ),
}


def equivalent_draws(win_rate: float) -> float:
    """Return the n whose best-of-n has this win rate on a reward without ties."""
    return BestOf.from_win_rate(min(max(win_rate, 0.5), MAX_DRAWS / (1 + MAX_DRAWS))).n


def draws_text(win_rate: float) -> str:
    """Write the equivalent number of draws."""
    draws = equivalent_draws(win_rate)
    if draws > MAX_DRAWS - 0.5:
        return f"over {MAX_DRAWS:.0f}"
    return f"{draws:.1f}" if draws < 20 else f"{draws:.0f}"


def tied_name(metrics: Metrics) -> str:
    """Name what is corrected for ties: the tilt where it is a best-of-n, else that of the draws."""
    return metrics["tilt"] if is_best_of(metrics["tilt"]) else f"best-of-{metrics['n']}"


def percent(share: float) -> str:
    """Write a share as whole percent, the sign kept on the number's line."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def with_interval(value: float, interval: Interval, *, digits: int = 3) -> str:
    """Write an estimate and its 95 % interval."""
    return f"{value:.{digits}f} {interval_text(interval, digits=digits)}"


def interval_text(interval: Interval, *, digits: int = 3) -> str:
    """Write an interval in brackets, kept on one line."""
    low, high = interval
    return f"[{low:.{digits}f},\N{NO-BREAK SPACE}{high:.{digits}f}]"


def method_note(name: str) -> str:
    """Say in a few words what a method is."""
    if name == BASE:
        return "the policy before training"
    return "the best of several draws of the base" if is_best_of(name) else "the trained model"
