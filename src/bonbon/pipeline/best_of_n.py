"""Best-of-n: draw n completions of a prompt, score them, and return one."""

import json
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from hashlib import blake2b
from inspect import isclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float

from bonbon.base_config import AnyPath
from bonbon.data.prompt_content import read_message, whole_text
from bonbon.data.prompt_rows import PromptRow
from bonbon.errors import ConfigError, PolicyError, PromptError, RewardError
from bonbon.models.packed.layout import PromptGroup, pack
from bonbon.models.packed.logprobs import self_certainties
from bonbon.models.packed.probe import packed_layout
from bonbon.models.policy import Policy, PolicyConfig, load_policy
from bonbon.pipeline.checks import check_amount
from bonbon.recipe import Recipe, make_recipe
from bonbon.recipe_io import shown
from bonbon.records import Candidate, Message, Prompt
from bonbon.rewards.base import Reward, RewardConfig, checked_scores, read_reward
from bonbon.rewards.function import FunctionReward
from bonbon.sampling.base import Progress, Sampler
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.factory import open_sampler
from bonbon.sampling.native.sampler import TransformersEngine, TransformersSampler
from bonbon.sampling.speculative_rejection import (
    SpeculativeRejection,
    check_fraction,
    rejection_lengths,
)
from bonbon.selection.ranks import tie_rng
from bonbon.selection.rule import Rule, Selection, SelectionInputs
from bonbon.theory.ties import tie_corrected


@dataclass(frozen=True, slots=True)
class BestOfN:
    """The best of n completions of a prompt.

    Attributes:
        prompt: the prompt.
        text: the completion with the highest reward; equal rewards are decided by the seed.
        reward: its reward.
        candidates: all n completions, with token ids and log-probabilities; NaN where a server
            gives none.
        rewards: of each candidate; None where the reward gave no score.
    """

    prompt: Prompt
    text: str
    reward: float
    candidates: tuple[Candidate, ...]
    rewards: tuple[float | None, ...]


def best_of_n(
    model: AnyPath | PolicyConfig | Policy,
    prompts: Iterable[str | Sequence[Message] | Prompt],
    reward: "str | Mapping[str, Any] | RewardConfig | Reward | Callable[..., Any]" = "vader",
    n: int = 8,
    *,
    temperature: float | int = 1.0,
    max_new_tokens: int = 128,
    seed: int = 0,
    engine: str | Mapping[str, Any] = "transformers",
) -> list[BestOfN]:
    """Draw n completions of every prompt, score them, and return the best of each.

    Args:
        model: a hub name or directory, a config, or a loaded policy.
        prompts: texts, chats, or prompts with the columns that the reward reads.
        reward: as in a recipe (`vader`, `package.module:function`, a classifier's hub name or
            directory, or keys and values with `kind`), a reward object, or a function of prompts
            and completions that returns one number per completion.
        n: completions per prompt.
        temperature: sampling temperature.
        max_new_tokens: longest completion, in tokens.
        seed: the same seed gives the same completions on the same machine.
        engine: as in a recipe: `transformers`, `vllm`, or keys and values with `kind`.

    Returns:
        One result per prompt, in the given order.

    Raises:
        BonbonError: the model, the reward or a prompt cannot be used; the line says why.
    """
    asked = _named(_prompts(prompts))
    scorer = _reward(reward, asked)
    recipe = make_recipe(
        {
            "seed": seed,
            "sampling": {
                "n": n,
                "temperature": temperature,
                "max_new_tokens": max_new_tokens,
                "engine": engine,
            },
        }
    )
    rule = Rule()
    sampling = _sampling_for(rule, recipe.sampling)
    check_amount(recipe, [replace(prompt, split="eval") for prompt in asked])
    with _sampler(model, sampling, seed) as sampler:
        drawn = sampler.sample(asked, n=n)
    repeated = [prompt for prompt in asked for _ in range(n)]
    scores = checked_scores(scorer, repeated, [candidate.text for candidate in drawn])
    return [
        _best(prompt, drawn[start : start + n], scores[start : start + n], scorer.name, rule, seed)
        for prompt, start in zip(asked, range(0, len(drawn), n), strict=True)
    ]


def _prompts(prompts: object) -> list[Prompt]:
    if isinstance(prompts, str):
        raise PromptError("got one prompt as a string, expected a list of prompts: put it in [ ]")
    if not isinstance(prompts, Iterable) or isinstance(prompts, bytes | Mapping):
        raise PromptError(f"got {shown(prompts)} as the prompts, expected a list of prompts")
    given = enumerate(cast("Iterable[Any]", prompts), start=1)
    return [prompt_from(prompt, where=f"prompt {number}") for number, prompt in given]


def prompt_from(
    content: str | Sequence[Message] | Prompt,
    *,
    system: str | None = None,
    where: str = "the prompt",
) -> Prompt:
    """Return a prompt with an id made from its content; its random numbers depend on the id.

    Args:
        content: a text, a chat, or a prompt, which is returned unchanged.
        system: a message to put before it.
        where: which prompt it is, for messages.

    Raises:
        PromptError: it is no text and no chat.
    """
    if isinstance(content, Prompt):
        _checked_content(content.content, where)
        if not isinstance(cast("object", content.id), str):
            raise PromptError(f"{where} has the id {content.id!r}, expected a text")
        return content
    checked = _checked_content(content, where)
    if system is not None:
        asked = checked if isinstance(checked, tuple) else (Message(role="user", content=checked),)
        checked = (Message(role="system", content=system), *asked)
    digest = blake2b(json.dumps(checked).encode(), digest_size=8)
    return Prompt(id=digest.hexdigest(), content=checked, split="eval")


def _checked_content(content: object, where: str) -> str | tuple[Message, ...]:
    """Return a text or the messages of a chat, as a prompt file may hold them."""
    row = PromptRow(number=1, location=where, values={})
    if isinstance(content, str):
        return whole_text(row, content)
    if not isinstance(content, list | tuple):
        raise PromptError(
            f"{where} is {shown(content)}, expected a text, a list of messages with role and "
            "content, or a Prompt"
        )
    if not content:
        raise PromptError(f"{where} is an empty list, expected at least one message")
    return tuple(
        read_message(row, f"message {number}", message)
        for number, message in enumerate(cast("Sequence[object]", content), start=1)
    )


def _named(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Number repeated prompts, so that each is answered with random numbers of its own."""
    given = {prompt.id for prompt in prompts}
    taken: set[str] = set()
    repeats: Counter[str] = Counter()
    named: list[Prompt] = []
    for prompt in prompts:
        name = prompt.id
        while name in taken or (name != prompt.id and name in given):
            repeats[prompt.id] += 1
            name = f"{prompt.id}-{repeats[prompt.id]}"
        taken.add(name)
        named.append(replace(prompt, id=name))
    return named


@contextmanager
def _sampler(
    model: AnyPath | PolicyConfig | Policy, sampling: SamplingConfig, seed: int
) -> Generator[Sampler]:
    """Open an engine for a model; one that is loaded already is the built-in engine's."""
    if isinstance(model, Policy):
        if sampling.engine.kind != "transformers":
            raise ConfigError(
                f"got a loaded policy with engine {sampling.engine.kind!r}, which loads its own; "
                "give the model's name or directory instead"
            )
        yield TransformersSampler(model, sampling, seed=seed)
        return
    config = PolicyConfig(model=str(model)) if isinstance(model, str | Path) else model
    if not isinstance(cast("object", config), PolicyConfig):
        raise PolicyError(
            f"got {shown(model)} as the model, expected a hub name, a directory, a PolicyConfig or "
            "a loaded policy"
        )
    with open_sampler(config, sampling, seed=seed) as (sampler, _):
        yield sampler


def _reward(reward: object, prompts: Sequence[Prompt]) -> Reward:
    """Load a reward, and check that the prompts have the columns that it reads."""
    if isinstance(reward, str | Mapping | RewardConfig):
        config = read_reward(reward)
        config.check_columns(prompts)
        return config.load()
    if isinstance(reward, Reward) and not isclass(reward):
        return reward
    if not callable(reward) or isclass(reward):
        raise ConfigError(
            f"got {shown(reward)} as the reward, expected a name, keys and values with `kind`, a "
            "reward object, or a function of prompts and completions"
        )
    return FunctionReward(reward)


def _best(
    prompt: Prompt,
    candidates: Sequence[Candidate],
    scores: Sequence[float | None],
    reward_name: str,
    rule: Rule,
    seed: int,
) -> BestOfN:
    scored = [index for index, score in enumerate(scores) if score is not None]
    if not scored:
        raise RewardError(
            f"reward {reward_name!r} gave none of the {len(candidates)} completions of "
            f"{prompt.text[:80]!r} a score, so none can be the best; expected one number or more"
        )
    selection = _select(
        rule,
        [candidates[index] for index in scored],
        np.array([scores[index] for index in scored], dtype=float),
        rng=tie_rng(seed, prompt.id),
    )
    best = scored[selection.index]
    reward = scores[best]
    assert reward is not None
    return BestOfN(prompt, candidates[best].text, reward, tuple(candidates), tuple(scores))


def _select(
    rule: Rule,
    candidates: Sequence[Candidate],
    rewards: Float[np.ndarray, " candidates"] | None,
    *,
    certainties: Float[np.ndarray, " candidates"] | None = None,
    rng: np.random.Generator,
) -> Selection:
    return rule.choose(
        SelectionInputs(
            texts=[candidate.text for candidate in candidates],
            logprobs=np.array([candidate.logprob for candidate in candidates]),
            rewards=rewards,
            certainties=certainties,
        ),
        rng=rng,
    )


COMPLETIONS_AT_ONCE = 8
"""Completions that share a forward pass when their certainty is measured."""


@dataclass(frozen=True, slots=True)
class BestAnswer:
    """One prompt's candidates and the choice among them.

    Attributes:
        rule: how the choice was made.
        candidates: those that were finished and can be chosen.
        rewards: reward of each candidate; None without a reward.
        reward_name: name of the reward; None without a reward.
        choice: the chosen one, the runner-up, and the scores.
        num_dropped: completions that were dropped early.
        num_unscored: completions without a score, which cannot be chosen.
        num_tokens: all tokens that were drawn, including those of dropped completions.
        seconds: from the first token to the choice.
    """

    rule: Rule
    candidates: tuple[Candidate, ...]
    rewards: Float[np.ndarray, " candidates"] | None
    reward_name: str | None
    choice: Selection
    num_dropped: int
    num_unscored: int
    num_tokens: int
    seconds: float

    @property
    def chosen(self) -> Candidate:
        """The answer."""
        return self.candidates[self.choice.index]

    @property
    def runner_up(self) -> Candidate | None:
        """The next best candidate with another text; None if there is none."""
        index = self.choice.runner_up
        return None if index is None else self.candidates[index]

    @property
    def base_reward(self) -> float | None:
        """Mean reward of one draw; None if completions were dropped, since these are the worst."""
        if self.rewards is None or self.num_dropped:
            return None
        return float(self.rewards.mean())

    @property
    def win_rate(self) -> float | None:
        """Win rate of best-of-n against one draw, with the ties of this prompt.

        Without ties it is n / (n + 1). It is None for other rules, and if completions were dropped.
        """
        if self.rewards is None or self.num_dropped or self.rule.method != "best":
            return None
        return float(tie_corrected(self.rewards[None, :], len(self.rewards))[0][0])


def answer_prompt(
    prompt: Prompt,
    recipe: Recipe,
    rule: Rule,
    *,
    reject: float | None = None,
    on_progress: Progress | None = None,
) -> BestAnswer:
    """Draw the recipe's n completions of a prompt and choose one.

    Args:
        prompt: the prompt to answer.
        recipe: its policy, sampling, reward and seed are used.
        rule: the selection rule.
        reject: drop this share of the completions at each quarter of the length limit.
        on_progress: called with the numbers of new tokens and of newly finished completions.

    Raises:
        BonbonError: the model or the reward cannot do what is asked.
    """
    if reject is not None:
        _check_rejection(recipe, reject)
    check_amount(recipe, [prompt])
    reward = recipe.reward.load() if rule.needs_rewards or reject is not None else None
    if reward is not None:
        recipe.reward.check_columns([prompt])
    load = cache(partial(load_policy, recipe.policy))
    sampling = _sampling_for(rule, recipe.sampling)
    with open_sampler(recipe.policy, sampling, seed=recipe.seed, load=load) as (sampler, _):
        began = time.perf_counter()
        pruning = _pruning(recipe, reward, reject)
        drawn, num_tokens = _draw(sampler, prompt, sampling.n, pruning, on_progress)
    candidates, rewards = _scored(prompt, drawn, reward)
    certainties = _certainties(load(), candidates, recipe) if rule.needs_certainties else None
    choice = _select(
        rule,
        candidates,
        rewards,
        certainties=certainties,
        rng=tie_rng(recipe.seed, prompt.id),
    )
    return BestAnswer(
        rule=rule,
        candidates=candidates,
        rewards=rewards,
        reward_name=reward.name if reward is not None else None,
        choice=choice,
        num_dropped=recipe.sampling.n - len(drawn),
        num_unscored=len(drawn) - len(candidates),
        num_tokens=num_tokens,
        seconds=time.perf_counter() - began,
    )


def _check_rejection(recipe: Recipe, reject: float) -> None:
    """Refuse early rejection with another engine, or with rescored log-probabilities."""
    check_fraction(reject)
    sampling = recipe.sampling
    if not isinstance(sampling.engine, TransformersEngine) or sampling.logprobs == "rescored":
        raise ConfigError(
            "dropping completions early needs the engine 'transformers' and its own "
            f"log-probabilities, got engine {sampling.engine.kind!r} and logprobs "
            f"{sampling.logprobs!r}; leave --reject out, or change these"
        )


def _sampling_for(rule: Rule, sampling: SamplingConfig) -> SamplingConfig:
    """Skip the rescoring of log-probabilities unless the rule reads them."""
    if sampling.logprobs != "auto" or rule.method == "likelihood":
        return sampling
    return sampling.model_copy(update={"logprobs": "sampler"})


def _pruning(
    recipe: Recipe, reward: Reward | None, reject: float | None
) -> SpeculativeRejection | None:
    if reward is None or reject is None:
        return None
    lengths = rejection_lengths(recipe.sampling.max_new_tokens)
    return SpeculativeRejection(partial(checked_scores, reward), fraction=reject, lengths=lengths)


def _draw(
    sampler: Sampler,
    prompt: Prompt,
    n: int,
    pruning: SpeculativeRejection | None,
    on_progress: Progress | None,
) -> tuple[list[Candidate], int]:
    """Return the finished completions, and how many tokens were drawn for all of them."""
    num_tokens = 0

    def count(tokens: int, ended: int) -> None:
        nonlocal num_tokens
        num_tokens += tokens
        if on_progress is not None:
            on_progress(tokens, ended)

    if pruning is None:
        candidates = sampler.sample([prompt], n=n, on_progress=count)
    else:
        assert isinstance(sampler, TransformersSampler), "_check_rejection refuses the others"
        candidates = sampler.sample([prompt], n=n, on_progress=count, pruning=pruning)
    return candidates, num_tokens


def _scored(
    prompt: Prompt, drawn: Sequence[Candidate], reward: Reward | None
) -> tuple[tuple[Candidate, ...], Float[np.ndarray, " candidates"] | None]:
    """Return the candidates that have a score, and the scores."""
    if reward is None:
        return tuple(drawn), None
    scores = checked_scores(reward, [prompt] * len(drawn), [candidate.text for candidate in drawn])
    kept = [
        (candidate, score)
        for candidate, score in zip(drawn, scores, strict=True)
        if score is not None
    ]
    if not kept:
        raise RewardError(
            f"reward {reward.name!r} gives none of the {len(drawn)} completions a score, so none "
            "can be chosen; use another reward, or a method that needs none, such as mbr"
        )
    return tuple(candidate for candidate, _ in kept), np.array([score for _, score in kept])


def _certainties(
    policy: Policy, candidates: Sequence[Candidate], recipe: Recipe
) -> Float[np.ndarray, " candidates"]:
    """Return each candidate's self-certainty, at the temperature it was drawn at."""
    parts: list[np.ndarray] = []
    temperature = recipe.sampling.temperature
    completions = [candidate.token_ids for candidate in candidates]
    groups = [
        PromptGroup(
            candidates[0].prompt_token_ids, tuple(completions[start : start + COMPLETIONS_AT_ONCE])
        )
        for start in range(0, len(completions), COMPLETIONS_AT_ONCE)
    ]
    with packed_layout(policy.model, groups) as layout:
        for group in groups:
            batch = pack([group], layout).to(policy.device)
            certainties = self_certainties(policy.model, batch, temperature=temperature)
            parts.append(certainties.double().cpu().numpy())
    return np.concatenate(parts)
