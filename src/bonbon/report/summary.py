"""What the numbers mean, in sentences that claim no more than the intervals allow."""

from collections.abc import Mapping
from typing import Any

from bonbon.evaluation.metrics import BASE, TRAINED, Interval, Metrics, Training
from bonbon.report.diagnosis import Diagnosis, Measured, diagnose, highest_win_rate
from bonbon.report.figures.style import is_best_of
from bonbon.theory.best_of import BestOf
from bonbon.theory.parse import parse_tilt
from bonbon.training.objectives import is_online

MAX_PLAIN_NATS = 10


def percent(share: float) -> str:
    """Write a share as whole percent, the sign kept on the number's line."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def percent_with_interval(share: float, interval: Interval) -> str:
    """Write a share and its 95 % interval as whole percent."""
    low, high = (f"{100 * end:.0f}" for end in interval)
    return f"{percent(share)} [{low},\N{NO-BREAK SPACE}{high}]"


def nats(kl: float) -> str:
    """Write a KL with as many digits as matter."""
    digits = 2 if abs(kl) < MAX_PLAIN_NATS else 0
    return f"{round(kl, digits) + 0.0:.{digits}f} nats"


def setting(value: float | int) -> str:
    """Write a setting's value: 0.05, 3, 2e-5."""
    if value == 0 or 0.001 <= abs(value) < 1e6:
        return f"{value:g}"
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def with_interval(value: float, interval: Interval, *, digits: int = 3) -> str:
    """Write an estimate and its 95 % interval."""
    return f"{round(value, digits) + 0.0:.{digits}f} {interval_text(interval, digits=digits)}"


def interval_text(interval: Interval, *, digits: int = 3) -> str:
    """Write an interval in brackets, kept on one line."""
    low, high = (round(end, digits) + 0.0 for end in interval)
    return f"[{low:.{digits}f},\N{NO-BREAK SPACE}{high:.{digits}f}]"


MODEL = "The trained model"

FINDINGS = {
    Diagnosis.IMPOSSIBLE: (
        "{name} is {place} and {wins}, which contradict each other: no policy within {reach} of "
        "its base can win {bound} of comparisons."
    ),
    Diagnosis.NOTHING_TO_LEARN: (
        "The rewards of the held-out answers tie so often that there is next to nothing to learn: "
        "with these ties, {goal} is {tied_goal_kl} from the base. {name} is {place} and {wins}."
    ),
    Diagnosis.UNMOVED: "Training did not move {model}: it is {place} and {wins}.",
    Diagnosis.TOO_FEW_PROMPTS: (
        "{prompts} to tell whether training helped: {model} is {place} and {wins}."
    ),
    Diagnosis.WORSE: "{name} answers {worse} than before training: it is {place} and {wins}.",
    Diagnosis.UNFINISHED: "{name} gains nothing yet: it is only {place} and {wins}.",
    Diagnosis.NO_GAIN: "{name} has moved without a gain: it is {place} and {wins}.",
    Diagnosis.DIVERGED: "{name} is {place} and {wins}: training has diverged.",
    Diagnosis.ON_THE_WAY: (
        "{name} {beats} its base {share} of the time, short of {goal}: it is only {place}."
    ),
    Diagnosis.BELOW: (
        "{name} {beats} its base {share} of the time and is {place}; {goal} reaches {goal_share}."
    ),
    Diagnosis.OVERSHOT: (
        "{name} {beats} its base {share} of the time, but it is {place}, {times} times as far as "
        "{goal}, which reaches {goal_share}."
    ),
    Diagnosis.REACHED: (
        "{name} {beats} its base {share} of the time, like {goal} ({goal_share}): it is {place}."
    ),
}

REMEDIES = {
    Diagnosis.IMPOSSIBLE: (
        "check that the reward scores the answers of both models alike, and evaluate again."
    ),
    Diagnosis.NOTHING_TO_LEARN: (
        "take a reward that tells answers apart, or raise sampling.temperature so that they differ."
    ),
    Diagnosis.UNMOVED: "{more}.",
    Diagnosis.TOO_FEW_PROMPTS: (
        "this run does not show that training helped: evaluate on more prompts (used: "
        "{num_prompts}; see prompts.num_eval and prompts.eval_fraction)."
    ),
    Diagnosis.WORSE: (
        "training moved it the wrong way: look at the training curves before anything else, and "
        "{less}."
    ),
    Diagnosis.UNFINISHED: "this run does not show that training helped: {more}.",
    Diagnosis.NO_GAIN: (
        "this run does not show that training helped: look at the training curves, {less}, or "
        "train on more prompts{num_train}."
    ),
    Diagnosis.DIVERGED: "{less}.",
    Diagnosis.ON_THE_WAY: "to come closer, {more}.",
    Diagnosis.BELOW: "to come closer, train on more prompts{num_train}{or_alpha}.",
    Diagnosis.OVERSHOT: "what the reward does not see drifts at such a distance: {less}.",
}
"""What to do about a case; one that is as it should be has none."""


def finding(measured: Measured, *, name: str = MODEL) -> str:
    """Say in a sentence what became of a model, with the numbers that tell."""
    towards = measured.turned() if measured.aims_down else measured
    yardstick = "goal" if measured.aimed else measured.goal
    most, count = highest_win_rate(measured.kl_ci[1]), measured.num_prompts
    return FINDINGS[diagnose(measured)].format(
        name=name,
        model="the model" if name == MODEL else name,
        goal=measured.goal,
        wins=f"wins {_share(measured)} of comparisons",
        share=_share(towards),
        goal_share=percent(towards.goal_win_rate),
        place=f"{nats(measured.kl)} from its base ({yardstick}: {nats(measured.goal_kl)})",
        reach=nats(measured.kl_ci[1]),
        bound=f"more than {percent(most)}"
        if measured.win_rate > 0.5
        else f"less than {percent(1 - most)}",
        tied_goal_kl=nats(measured.goal_kl_with_ties),
        times=f"{measured.kl / measured.goal_kl:.2g}" if measured.goal_kl else "many",
        beats="loses to" if measured.aims_down else "beats",
        worse="better" if measured.aims_down else "worse",
        prompts="One held-out prompt is too few"
        if count == 1
        else f"{count} held-out prompts are too few",
    )


def remedy(measured: Measured, training: Training | None) -> str | None:
    """Say which setting to change, with the value that was used; None where nothing is amiss.

    Args:
        measured: what came out.
        training: what it came from; metrics of earlier versions do not tell.
    """
    text = REMEDIES.get(diagnose(measured))
    if text is None:
        return None
    used: dict[str, Any] = {**training} if training else {}
    beta = _setting("beta", used) if "beta" in used else None
    rate = _setting("learning_rate", used)
    said = text.format(
        more=f"raise {rate} or {_setting('epochs', used)}" + (f", or lower {beta}" if beta else ""),
        less=f"lower {rate}" + (f" or raise {beta}" if beta else ""),
        num_prompts=measured.num_prompts,
        num_train=_used(used.get("num_prompts")),
        or_alpha=f", or with another {_setting('alpha', used)}" if "alpha" in used else "",
    )
    return f"{said[0].upper()}{said[1:]}"


def in_force(training: Training) -> str:
    """Say what training went by, defaults worked out."""
    names = {"learning_rate": "learning rate", "alpha": "α =", "beta": "β =", "epochs": "epochs ="}
    parts = [f"{text} {setting(training[key])}" for key, text in names.items() if key in training]
    return ", ".join(parts)


def _share(measured: Measured) -> str:
    return percent_with_interval(measured.win_rate, measured.win_rate_ci)


def _setting(name: str, used: Mapping[str, Any]) -> str:
    return f"training.{name}{_used(used.get(name))}"


def _used(value: float | int | None) -> str:
    return "" if value is None else f" (used: {setting(value)})"


MAX_DRAWS = 1000.0


def headline(metrics: Metrics) -> str:
    """Say in one sentence what became of the model."""
    return finding(measured(metrics))


def measured(metrics: Metrics) -> Measured:
    """Return what the trained model's diagnosis rests on."""
    row, goal, methods = metrics["methods"][TRAINED], metrics["theory"], metrics["methods"]
    win_rate, interval = goal["win_rate"], (goal["win_rate"], goal["win_rate"])
    tied, without_ties = goal["tie_corrected"], parse_tilt(tied_name(metrics)).kl
    left_by_ties = min(1.0, tied["kl"] / without_ties) if without_ties else 1.0
    if metrics["tilt"] in methods:
        best = methods[metrics["tilt"]]
        win_rate, interval = best["win_rate"], best["win_rate_ci"]
    elif is_best_of(metrics["tilt"]):
        win_rate, interval = tied["win_rate"], tied["win_rate_ci"]
    return Measured(
        win_rate=row["win_rate"],
        win_rate_ci=row["win_rate_ci"],
        kl=row["kl"],
        kl_ci=row["kl_ci"],
        num_prompts=row["num_prompts"],
        goal=metrics["tilt"],
        goal_win_rate=win_rate,
        goal_win_rate_ci=interval,
        goal_kl=goal["kl"],
        goal_kl_with_ties=goal["kl"] * left_by_ties,
        aimed="beta" not in metrics.get("training", {}),
    )


def aim(metrics: Metrics) -> str:
    """Say what was trained towards what, on what, by which settings."""
    training = metrics.get("training")
    settings = f" ({in_force(training)})" if training else ""
    begun = f"The aim: one draw from {metrics['policy']} that is as good as {metrics['tilt']}."
    if not measured(metrics).aimed:
        begun = f"One draw from {metrics['policy']} after training, beside {metrics['tilt']}."
    on = f"on {metrics['n']} draws per prompt, ranked by the reward ‘{metrics['reward']}’"
    if training and training["num_prompts"] is None:
        on = f"on pairs from a file, and is measured by the reward ‘{metrics['reward']}’"
    elif is_online(metrics["objective"]):
        on = f"on answers that it drew itself, scored by the reward ‘{metrics['reward']}’"
    return f"{begun} It was trained with the objective ‘{metrics['objective']}’{settings} {on}."


def outcome(metrics: Metrics) -> str:
    """Say what came out: win rate and KL with their intervals, on how many of the prompts."""
    row = metrics["methods"][TRAINED]
    held_out = metrics.get("num_held_out", row["num_prompts"])
    on, rest = f"{row['num_prompts']} held-out prompts", ""
    if held_out > row["num_prompts"]:
        on = f"{row['num_prompts']} of {held_out} held-out prompts"
        rest = " The other prompts have too few scored answers, and are left out."
    return (
        f"On {on}, {row['samples_per_prompt']} answers each, its "
        f"win rate against the base is {with_interval(row['win_rate'], row['win_rate_ci'])}, "
        f"and its KL from the base is {with_interval(row['kl'], row['kl_ci'], digits=2)} nats."
        f"{rest}"
    )


_PRICED = {Diagnosis.ON_THE_WAY, Diagnosis.BELOW, Diagnosis.REACHED}
"""What a model has to be for its win rate to be worth a number of draws."""


def worth(metrics: Metrics) -> str:
    """Say what the win rate is worth in draws, beside what best-of-n costs, and what to change."""
    found = measured(metrics)
    said: list[str] = []
    if diagnose(found) in _PRICED and not found.aims_down:
        said = [_draws(found), *_against_best_of(metrics)]
    advice = remedy(found, metrics.get("training"))
    return " ".join([*said, *([advice] if advice else [])])


def _draws(found: Measured) -> str:
    low, high = found.win_rate_ci
    return (
        f"In theory, one answer of it is worth the best of {draws_text(found.win_rate)} draws of "
        f"the base (95 % interval {draws_text(low)} to {draws_text(high)}), "
        "for the price of one draw."
    )


def _against_best_of(metrics: Metrics) -> list[str]:
    """Compare with selection from the same n at inference, where it was measured."""
    name, row = f"best-of-{metrics['n']}", metrics["methods"][TRAINED]
    if name not in metrics["methods"]:
        return []
    selected = metrics["methods"][name]
    begun = (
        f"{name[0].upper()}{name[1:]} itself wins {selected['win_rate']:.3f}, at {metrics['n']} "
        "times the sampling cost"
    )
    if row["win_rate_ci"][0] > selected["win_rate_ci"][1]:
        return [f"{begun}; the trained model wins more often."]
    if row["win_rate_ci"][1] >= selected["win_rate_ci"][0]:
        return [f"{begun}: within the intervals, the trained model wins as often."]
    share = (row["win_rate"] - 0.5) / (selected["win_rate"] - 0.5)
    return [f"{begun}; the trained model has {percent(share)} of that gain over 0.5."]


def room(metrics: Metrics) -> str | None:
    """Say how much any policy could win at the trained model's KL, where that is of use."""
    found = measured(metrics)
    if diagnose(found) in _BEYOND or found.aims_down:
        return None
    most = highest_win_rate(found.kl)
    bound = f"No policy {nats(found.kl)} from its base can win more than {most:.3f}"
    if found.win_rate_ci[1] >= most:
        return f"{bound}."
    gain = most - found.win_rate
    return f"{bound}: the {gain:.3f} between is what better training can still gain at this KL."


_BEYOND = {Diagnosis.IMPOSSIBLE, Diagnosis.UNMOVED, Diagnosis.DIVERGED, Diagnosis.OVERSHOT}
"""Where the bound at the model's KL says nothing new."""


def replaces_best_of(metrics: Metrics) -> bool:
    """Return whether one draw of the model is shown to be as good as its goal."""
    return diagnose(measured(metrics)) is Diagnosis.REACHED


def unscored(metrics: Metrics) -> str | None:
    """Say how many prompts have no answer and how many answers no score, None if there are none."""
    prompts = _counted(metrics.get("unanswered", {}))
    answers = _counted(metrics.get("no_score", {}))
    said = [
        f"The server gave no answer to prompts: {prompts}. They are left out everywhere."
        if prompts
        else "",
        f"The reward gave no score to {answers}: those answers are in no ranking and no mean."
        if answers
        else "",
    ]
    return " ".join(filter(None, said)) or None


def _counted(counts: Mapping[str, int]) -> str:
    """List the sets with how many of each, empty if there are none."""
    return ", ".join(f"{count} of the set {name}" for name, count in counts.items() if count)


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


def method_note(name: str) -> str:
    """Say in a few words what a method is."""
    if name == BASE:
        return "the policy before training"
    return "the best of several draws of the base" if is_best_of(name) else "the trained model"
