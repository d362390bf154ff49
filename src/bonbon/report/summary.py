"""Sentences about the numbers of a run; they claim no more than the intervals allow."""

from collections.abc import Mapping

from bonbon.evaluation.metrics import BASE, TRAINED, Metrics, TrainingSettings
from bonbon.report.diagnosis import Diagnosis, Measured, diagnose, highest_win_rate
from bonbon.report.figures.style import is_best_of
from bonbon.theory.best_of import BestOf
from bonbon.theory.estimators import Interval
from bonbon.theory.parse import parse_tilt
from bonbon.training.objectives import is_online

MAX_PLAIN_NATS = 10


def percent(share: float) -> str:
    """Write a share as whole percent; the sign stays on the number's line."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def percent_with_interval(share: Interval) -> str:
    """Write a share and its interval as whole percent."""
    low, high = (f"{100 * end:.0f}" for end in (share.low, share.high))
    return f"{percent(share.value)} [{low},\N{NO-BREAK SPACE}{high}]"


def nats(kl: float) -> str:
    """Write a KL with as many digits as matter."""
    digits = 2 if abs(kl) < MAX_PLAIN_NATS else 0
    return f"{round(kl, digits) + 0.0:.{digits}f} nats"


def setting(value: float | int) -> str:
    """Write the value of a setting: 0.05, 3, 2e-5."""
    if value == 0 or 0.001 <= abs(value) < 1e6:
        return f"{value:g}"
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def with_interval(estimate: Interval, *, digits: int = 3) -> str:
    """Write an estimate and its interval."""
    value = round(estimate.value, digits) + 0.0  # no sign on zero
    return f"{value:.{digits}f} {interval_text(estimate, digits=digits)}"


def interval_text(estimate: Interval, *, digits: int = 3) -> str:
    """Write an interval in brackets, kept on one line."""
    low, high = (round(end, digits) + 0.0 for end in (estimate.low, estimate.high))
    return f"[{low:.{digits}f},\N{NO-BREAK SPACE}{high:.{digits}f}]"


MODEL = "The trained model"

FINDINGS = {
    Diagnosis.IMPOSSIBLE: (
        "{name} is {where} and {wins}. These numbers contradict each other: no policy within "
        "{reach} of its base can win {bound} of comparisons."
    ),
    Diagnosis.NOTHING_TO_LEARN: (
        "The rewards of the held-out answers tie so often that there is almost nothing to learn: "
        "with these ties, {goal} is only {tied_goal_kl} from the base. {name} is {where} and "
        "{wins}."
    ),
    Diagnosis.UNMOVED: "Training did not move {model}: it is {where} and {wins}.",
    Diagnosis.TOO_FEW_PROMPTS: (
        "{prompts} to tell whether training helped: {model} is {where} and {wins}."
    ),
    Diagnosis.WORSE: "{name} answers {worse} than before training: it is {where} and {wins}.",
    Diagnosis.UNFINISHED: "{name} shows no gain yet: it is only {where} and {wins}.",
    Diagnosis.NO_GAIN: "{name} has moved from its base without a gain: it is {where} and {wins}.",
    Diagnosis.DIVERGED: "{name} is {where} and {wins}: training has diverged.",
    Diagnosis.ON_THE_WAY: (
        "{name} {beats} its base {share} of the time, less often than {goal}: it is only {where}."
    ),
    Diagnosis.BELOW: (
        "{name} {beats} its base {share} of the time and is {where}; {goal} reaches {goal_share}."
    ),
    Diagnosis.OVERSHOT: (
        "{name} {beats} its base {share} of the time, but it is {where}, {times} times as far as "
        "{goal}, which reaches {goal_share}."
    ),
    Diagnosis.REACHED: (
        "{name} {beats} its base {share} of the time, about as often as {goal} ({goal_share}), and "
        "is {where}."
    ),
}

REMEDIES = {
    Diagnosis.IMPOSSIBLE: (
        "check that the reward scores the answers of both models in the same way, and evaluate "
        "again."
    ),
    Diagnosis.NOTHING_TO_LEARN: (
        "use a reward that distinguishes the answers, or raise sampling.temperature so that they "
        "differ more."
    ),
    Diagnosis.UNMOVED: "{more}.",
    Diagnosis.TOO_FEW_PROMPTS: (
        "this run does not show that training helped: evaluate on more prompts (used: "
        "{num_prompts}; see prompts.num_eval and prompts.eval_fraction)."
    ),
    Diagnosis.WORSE: (
        "training moved the model in the wrong direction: check the training curves first, and "
        "{less}."
    ),
    Diagnosis.UNFINISHED: "this run does not show that training helped: {more}.",
    Diagnosis.NO_GAIN: (
        "this run does not show that training helped: check the training curves, {less}, or "
        "train on more prompts{num_train}."
    ),
    Diagnosis.DIVERGED: "{less}.",
    Diagnosis.ON_THE_WAY: "to come closer to the goal, {more}.",
    Diagnosis.BELOW: ("to come closer to the goal, train on more prompts{num_train}{or_alpha}."),
    Diagnosis.OVERSHOT: (
        "this far from the base, qualities that the reward does not measure change too: {less}."
    ),
}
"""What to do about a case; a model that reached its goal needs nothing."""


def finding(measured: Measured, *, name: str = MODEL) -> str:
    """Return a sentence that says what training did to a model, with its numbers."""
    upward = measured.mirrored() if measured.aims_down else measured
    goal = "goal" if measured.trained_to_goal else measured.goal
    kl, most = measured.kl, highest_win_rate(measured.kl.high)
    wins_more = measured.win_rate.value > 0.5
    return FINDINGS[diagnose(measured)].format(
        name=name,
        model="the model" if name == MODEL else name,
        goal=measured.goal,
        wins=f"wins {percent_with_interval(measured.win_rate)} of comparisons",
        share=percent_with_interval(upward.win_rate),
        goal_share=percent(upward.goal_win_rate.value),
        where=f"{nats(kl.value)} from its base ({goal}: {nats(measured.goal_kl)})",
        reach=nats(kl.high),
        bound=f"more than {percent(most)}" if wins_more else f"less than {percent(1 - most)}",
        tied_goal_kl=nats(measured.goal_kl_with_ties),
        times=f"{kl.value / measured.goal_kl:.2g}" if measured.goal_kl else "many",
        beats="loses to" if measured.aims_down else "beats",
        worse="better" if measured.aims_down else "worse",
        prompts="One held-out prompt is too few"
        if measured.num_prompts == 1
        else f"{measured.num_prompts} held-out prompts are too few",
    )


def remedy(measured: Measured, training: TrainingSettings | None) -> str | None:
    """Return which setting to change, with the value that was used; None if nothing is wrong.

    Args:
        measured: the numbers of the model.
        training: the settings in force; metrics of early versions do not have them.
    """
    text = REMEDIES.get(diagnose(measured))
    if text is None:
        return None
    used = training.model_dump(exclude_none=True) if training else {}

    def key(name: str) -> str:
        return f"training.{name}{_used(used.get(name))}"

    sentence = text.format(
        more=f"raise {key('learning_rate')} or {key('epochs')}"
        + (f", or lower {key('beta')}" if "beta" in used else ""),
        less=f"lower {key('learning_rate')}"
        + (f" or raise {key('beta')}" if "beta" in used else ""),
        num_prompts=measured.num_prompts,
        num_train=_used(used.get("num_prompts")),
        or_alpha=f", or with another {key('alpha')}" if "alpha" in used else "",
    )
    return f"{sentence[0].upper()}{sentence[1:]}"


def _used(value: float | int | None) -> str:
    return "" if value is None else f" (used: {setting(value)})"


def settings_text(training: TrainingSettings) -> str:
    """Return the settings in force in a few words."""
    names = {"learning_rate": "learning rate", "alpha": "α =", "beta": "β =", "epochs": "epochs ="}
    used = training.model_dump(exclude_none=True)
    return ", ".join(f"{text} {setting(used[key])}" for key, text in names.items() if key in used)


MAX_DRAWS = 1000.0


def headline(metrics: Metrics) -> str:
    """Return one sentence that says what training did to the model."""
    return finding(measured(metrics))


def measured(metrics: Metrics) -> Measured:
    """Return the numbers that the trained model's diagnosis rests on."""
    trained, goal = metrics.methods[TRAINED], metrics.theory
    tied, without_ties = goal.tie_corrected, parse_tilt(tied_name(metrics)).kl
    left_by_ties = min(1.0, tied.kl.value / without_ties) if without_ties else 1.0
    win_rate = Interval(goal.win_rate, goal.win_rate, goal.win_rate)
    if metrics.tilt in metrics.methods:
        win_rate = metrics.methods[metrics.tilt].win_rate
    elif is_best_of(metrics.tilt):
        win_rate = tied.win_rate
    return Measured(
        win_rate=trained.win_rate,
        kl=trained.kl,
        num_prompts=trained.num_prompts,
        goal=metrics.tilt,
        goal_win_rate=win_rate,
        goal_kl=goal.kl,
        goal_kl_with_ties=goal.kl * left_by_ties,
        trained_to_goal=metrics.training is None or metrics.training.beta is None,
    )


def aim(metrics: Metrics) -> str:
    """Say what the model was trained towards, on which examples and with which settings."""
    training = metrics.training
    settings = f" ({settings_text(training)})" if training else ""
    goal = f"The goal: one answer of {metrics.policy} is as good as {metrics.tilt}."
    if not measured(metrics).trained_to_goal:
        goal = f"{metrics.policy} after training is compared with {metrics.tilt}."
    examples = f"on {metrics.n} draws per prompt, ranked by the reward ‘{metrics.reward}’"
    if training and training.num_prompts is None:
        examples = f"on pairs from a file, and is measured by the reward ‘{metrics.reward}’"
    elif is_online(metrics.objective):
        examples = f"on answers that it drew itself, scored by the reward ‘{metrics.reward}’"
    return f"{goal} It was trained with the objective ‘{metrics.objective}’{settings} {examples}."


def outcome(metrics: Metrics) -> str:
    """Give win rate and KL with their intervals, and the number of prompts behind them."""
    trained = metrics.methods[TRAINED]
    prompts, rest = f"{trained.num_prompts} held-out prompts", ""
    if metrics.num_held_out is not None and metrics.num_held_out > trained.num_prompts:
        prompts = f"{trained.num_prompts} of {metrics.num_held_out} held-out prompts"
        rest = " The other prompts have too few scored answers and are left out."
    return (
        f"On {prompts} with {trained.samples_per_prompt} answers each, the trained model's "
        f"win rate against the base is {with_interval(trained.win_rate)}, "
        f"and its KL from the base is {with_interval(trained.kl, digits=2)} nats."
        f"{rest}"
    )


_PRICED = {Diagnosis.ON_THE_WAY, Diagnosis.BELOW, Diagnosis.REACHED}
"""Cases in which a win rate can be expressed as a number of draws of the base."""


def worth(metrics: Metrics) -> str:
    """Express the win rate in draws of the base, compare with best-of-n, and give the remedy."""
    numbers = measured(metrics)
    sentences: list[str] = []
    if diagnose(numbers) in _PRICED and not numbers.aims_down:
        win_rate = numbers.win_rate
        sentences = [
            "In theory, one answer of the trained model is as good as the best of "
            f"{draws_text(win_rate.value)} draws of the base (95 % interval "
            f"{draws_text(win_rate.low)} to {draws_text(win_rate.high)}), at the cost of one draw.",
            *_against_best_of(metrics),
        ]
    return " ".join([*sentences, *filter(None, [remedy(numbers, metrics.training)])])


def _against_best_of(metrics: Metrics) -> list[str]:
    """Compare with best-of-n at inference for the n of training, where it was measured."""
    name = f"best-of-{metrics.n}"
    if name not in metrics.methods:
        return []
    trained, selected = metrics.methods[TRAINED].win_rate, metrics.methods[name].win_rate
    start = (
        f"{name[0].upper()}{name[1:]} itself has a win rate of {selected.value:.3f}, at "
        f"{metrics.n} times the sampling cost"
    )
    if trained.low > selected.high:
        return [f"{start}; the trained model wins more often."]
    if trained.high >= selected.low:
        return [f"{start}; within the intervals, the trained model wins as often."]
    share = (trained.value - 0.5) / (selected.value - 0.5)
    return [f"{start}; the trained model has {percent(share)} of its gain over 0.5."]


def highest_at_this_kl(metrics: Metrics) -> str | None:
    """Say how often any policy can win at the trained model's KL; None where that is no use."""
    numbers = measured(metrics)
    if diagnose(numbers) in _BEYOND or numbers.aims_down:
        return None
    kl, win_rate = numbers.kl.value, numbers.win_rate
    most = highest_win_rate(kl)
    bound = f"No policy at {nats(kl)} from its base can have a win rate above {most:.3f}."
    if win_rate.high >= most:
        return bound
    return f"{bound} Better training can still gain {most - win_rate.value:.3f} at this KL."


_BEYOND = {Diagnosis.IMPOSSIBLE, Diagnosis.UNMOVED, Diagnosis.DIVERGED, Diagnosis.OVERSHOT}
"""Cases in which the bound at the model's KL tells nothing new."""


def replaces_best_of(metrics: Metrics) -> bool:
    """Return whether one draw of the model is shown to be as good as its goal."""
    return diagnose(measured(metrics)) is Diagnosis.REACHED


def unscored(metrics: Metrics) -> str | None:
    """Say how many prompts have no answer and how many answers no score, None if there are none."""
    prompts, answers = _counted(metrics.unanswered), _counted(metrics.no_score)
    sentences: list[str] = []
    if prompts:
        sentences.append(
            f"The server did not answer some prompts ({prompts}). They are left out everywhere."
        )
    if answers:
        sentences.append(
            f"The reward gave no score to some answers ({answers}). They are in no ranking and no "
            "mean."
        )
    return " ".join(sentences) or None


def _counted(counts: Mapping[str, int]) -> str:
    """List the sets with how many of each, empty if there are none."""
    return ", ".join(f"{count} of the set {name}" for name, count in counts.items() if count)


GLOSSARY = {
    "Win rate": (
        "how often an answer’s reward is above that of an answer of the base to the same prompt; "
        "ties count one half, so the base itself has 0.5."
    ),
    "KL": (
        "how far the method’s distribution of answers is from the base’s, in nats. "
        "Less is safer: qualities that the reward does not measure change with it."
    ),
    "Cut off": "share of the answers that reached the length limit.",
    "95 % interval": "from resampling the prompts, which are the independent units.",
    "In theory": "win rate and KL of the tilt, on a reward without ties.",
    "With ties": (
        "win rate and KL of best-of-n on this reward. Where answers tie there is less to choose "
        "from, so training should be compared with these numbers."
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
    """Return the best-of-n that is corrected for ties: the tilt if it is one, else that of n."""
    return metrics.tilt if is_best_of(metrics.tilt) else f"best-of-{metrics.n}"


def method_note(name: str) -> str:
    """Say in a few words what a method is."""
    if name == BASE:
        return "the policy before training"
    return "the best of several draws of the base" if is_best_of(name) else "the trained model"
