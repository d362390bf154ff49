"""`bonbon best`: answers one prompt with the best of n completions."""

import sys
from typing import Annotated

import typer

from bonbon.cli.options import Overrides
from bonbon.errors import ConfigError, PromptError
from bonbon.selection.rule import METHODS, NUMBER, PARAMETERS, Rule

_PARAMETERS = "; ".join(f"{method}: {what}" for method, what in PARAMETERS.items())


def best(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")],
    n: Annotated[int, typer.Option("--n", help="Number of completions to choose from.")] = 16,
    policy: Annotated[
        str | None,
        typer.Option(help="Hub name or directory of the model (default SmolLM2-135M-Instruct)."),
    ] = None,
    reward: Annotated[
        str | None,
        typer.Option(
            help="Reward: vader, package.module:function, or a classifier (default vader)."
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=f"Selection rule: {', '.join(METHODS)}.")] = "best",
    parameter: Annotated[
        float | None, typer.Option(help=f"Parameter of the selection rule. {_PARAMETERS}.")
    ] = None,
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Regular expression for the answer that majority and borda count; its last match "
            f"counts (default {NUMBER}).",
        ),
    ] = None,
    reject: Annotated[
        float | None,
        typer.Option(
            help="Speculative rejection: drop this share of the completions at each quarter of the "
            "length limit."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    temperature: Annotated[float, typer.Option(help="Sampling temperature.")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(help="Longest completion, in tokens.")] = 128,
    seed: Annotated[
        int, typer.Option(help="Random seed; the same seed gives the same answers.")
    ] = 0,
    override: Overrides = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, with all candidates.")
    ] = False,
) -> None:
    """Answer one prompt with the best of n; print the answer, the runner-up and the scores."""
    rule = Rule(method=method, parameter=parameter, pattern=answer)
    if reward is not None and not rule.needs_rewards and reject is None:
        raise ConfigError(f"the method {method!r} reads no reward; leave --reward out")
    text = _checked(sys.stdin.read() if prompt == "-" else prompt, "the prompt")
    instruction = None if system is None else _checked(system, "the system message")
    sampling = {"n": n, "temperature": temperature, "max_new_tokens": max_new_tokens}
    settings = {
        "seed": seed,
        "sampling": sampling,
        **({} if policy is None else {"policy": {"model": policy}}),
        **({} if reward is None else {"reward": reward}),
    }
    from bonbon.cli.answering import show_best

    show_best(
        text,
        settings,
        override or [],
        rule,
        system=instruction,
        reject=reject,
        as_json=as_json,
    )


def _checked(text: str, what: str) -> str:
    """Return a text that a tokenizer can take."""
    if not text.strip():
        raise PromptError(f"{what} is empty; expected some text")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of a terminal that are not UTF-8
        raise PromptError(f"{what} is not UTF-8 at character {error.start}") from None
    return text
