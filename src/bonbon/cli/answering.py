"""Implements `bonbon best`; imports torch, so the verb imports this module only when it runs."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from bonbon.cli.recipe_commands import with_plain_errors
from bonbon.console import Console, shown_json
from bonbon.models.policy import policy_name
from bonbon.pipeline.best_of_n import BestAnswer, answer_prompt, prompt_from
from bonbon.recipe import Recipe, make_recipe
from bonbon.records import Candidate, Prompt
from bonbon.sampling.base import Progress
from bonbon.selection.rule import Rule

OUT_OF_MEMORY_ADVICE = "lower --n or --max-new-tokens, or set sampling.engine.rows with --set"

SCORES = {
    "soft": "chance",
    "similarity": "reward + similarity",
    "likelihood": "reward + likelihood",
    "mbr": "mean similarity",
    "certainty": "self-certainty",
    "majority": "votes",
    "borda": "self-certainty",
}
"""Names of the scores of rules that do not rank by the reward alone."""


def show_best(
    text: str,
    settings: Mapping[str, Any],
    overrides: Sequence[str],
    rule: Rule,
    *,
    system: str | None,
    reject: float | None,
    as_json: bool,
) -> None:
    """Answer one prompt and print the choice."""
    recipe = make_recipe(settings, overrides)
    prompt = prompt_from(text, system=system)
    with with_plain_errors(when_memory_is_full=OUT_OF_MEMORY_ADVICE):
        best = _answer(prompt, recipe, rule, reject)
    if as_json:
        document = _document(prompt, recipe, best)
        plain = not (sys.stdout.encoding or "").lower().startswith("utf")
        typer.echo(shown_json(document, plain=plain))
    else:
        _print_sheet(Console(), best, recipe)


def _answer(prompt: Prompt, recipe: Recipe, rule: Rule, reject: float | None) -> BestAnswer:
    """Answer, with a progress bar beside the output if someone watches."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return answer_prompt(prompt, recipe, rule, reject=reject)
    with console.bar("draw", total=recipe.sampling.n) as bar:
        on_progress: Progress = lambda tokens, ended: bar.advance(ended, extra=tokens)  # noqa: E731
        return answer_prompt(prompt, recipe, rule, reject=reject, on_progress=on_progress)


def _print_sheet(console: Console, best: BestAnswer, recipe: Recipe) -> None:

    drawn = len(best.candidates) + best.num_dropped + best.num_unscored
    _print_answer(console, f"{_chosen_by(best)} of {drawn}", best, best.choice.index)
    if best.choice.runner_up is not None:
        _print_answer(console, "Runner-up", best, best.choice.runner_up)
    elif len(best.candidates) > 1:
        console.say("\nNo runner-up: all answers are the same.")
    ranked = sorted(best.choice.scores.tolist(), reverse=True)
    console.say(f"\nScores: {' '.join(_short(score) for score in ranked)}")
    for line in _remarks(best):
        console.say(line)
    if best.reward_name is not None:
        for spec, file in recipe.reward.source_files().items():
            console.say(f"The reward {spec} is the code in {file}.")


def _print_answer(console: Console, title: str, best: BestAnswer, index: int) -> None:
    candidate = best.candidates[index]
    cut = ", cut at the length limit" if candidate.finish_reason == "length" else ""
    console.heading(f"{title} ({', '.join(_marks(best, index))}{cut})")
    console.say(candidate.text.strip())


def _chosen_by(best: BestAnswer) -> str:
    return "Best" if best.rule.method == "best" else f"Chosen by {best.rule.method}"


def _marks(best: BestAnswer, index: int) -> list[str]:
    """Return a candidate's score and reward, each once."""
    name = SCORES.get(best.rule.method)
    marks = [] if name is None else [f"{name} {_short(float(best.choice.scores[index]))}"]
    if best.rewards is not None:
        marks.append(f"{best.reward_name} {_short(float(best.rewards[index]))}")
    return marks


def _remarks(best: BestAnswer) -> list[str]:
    """Return further lines about the answer."""
    remarks: list[str] = []
    if best.base_reward is not None:
        remarks.append(f"One draw scores {_short(best.base_reward)} on average.")
    if best.win_rate is not None:
        n = len(best.candidates)
        ties = len(set(best.choice.scores.tolist())) < n
        counted = f", and {best.win_rate:.1%} with the ties of these answers" if ties else ""
        remarks.append(f"Best-of-{n} wins {n / (n + 1):.1%} against one draw{counted}.")
    if best.num_dropped:
        remarks.append(f"{best.num_dropped} answers were dropped early.")
    if best.num_unscored:
        remarks.append(f"{best.num_unscored} answers have no score and were left out.")
    remarks.append(f"{best.num_tokens:,} tokens in {best.seconds:.1f} s.")
    return remarks


def _short(number: float) -> str:
    return f"{number:.4g}"


def _document(prompt: Prompt, recipe: Recipe, best: BestAnswer) -> dict[str, Any]:
    return {
        "prompt": prompt.text,
        "policy": policy_name(recipe.policy),
        "reward": best.reward_name,
        "method": best.rule.method,
        "parameter": best.rule.parameter,
        "seed": recipe.seed,
        "sampling": recipe.sampling.model_dump(mode="json"),
        "answer": best.chosen.text,
        "chosen": best.choice.index,
        "runner_up": best.choice.runner_up,
        "candidates": [_row(best, index, each) for index, each in enumerate(best.candidates)],
        "base_reward": best.base_reward,
        "win_rate": best.win_rate,
        "num_dropped": best.num_dropped,
        "num_unscored": best.num_unscored,
        "num_tokens": best.num_tokens,
        "seconds": round(best.seconds, 3),
    }


def _row(best: BestAnswer, index: int, candidate: Candidate) -> dict[str, Any]:
    return {
        "sample_index": candidate.sample_index,
        "text": candidate.text,
        "score": float(best.choice.scores[index]),
        "reward": None if best.rewards is None else float(best.rewards[index]),
        "logprob": candidate.logprob if math.isfinite(candidate.logprob) else None,
        "num_tokens": len(candidate.token_ids),
        "finish_reason": candidate.finish_reason,
    }
