"""What became of a trained model, and which setting to change, in sentences."""

from collections.abc import Mapping
from typing import Any

from bonbon.report.bounds import highest_win_rate
from bonbon.report.diagnosis import Diagnosis, Measured, diagnose
from bonbon.report.metrics import Training
from bonbon.report.numbers import nats, percent, percent_with_interval, setting

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
