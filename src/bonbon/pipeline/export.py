"""Exports the candidates of a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path

from bonbon.base_config import AnyPath, as_path
from bonbon.console import Console
from bonbon.data.export_formats import (
    ExportCount,
    Order,
    export_candidates,
    export_pairs,
    export_sft,
    export_unpaired,
    untied_groups,
)
from bonbon.data.store import CandidateStore
from bonbon.errors import BonbonError, ConfigError, PolicyError, PromptError
from bonbon.models.chat_template import render_chat
from bonbon.models.policy import PolicyTokenizer, load_policy_tokenizer
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.stage import refuse_damage
from bonbon.recipe import Recipe, load_run_recipe
from bonbon.records import Candidate, Message, Prompt, ScoredGroup
from bonbon.selection.ranks import rank_order, tie_rng

CUT = "answers were cut at the length limit, and get an end"
OTHER_ANSWER = "answers have other tokens than were drawn"
OTHER_PROMPT = "prompts have other tokens than were answered"


@dataclass(frozen=True)
class TrainerReading:
    """Reads rows as TRL's trainers do, to find rows with other tokens than were drawn.

    Attributes:
        policy: the trainer's tokenizer.
        prompts: the prompts of the recipe's file, by id; empty if the file is missing.
    """

    policy: PolicyTokenizer
    prompts: Mapping[str, Prompt]

    def chats(self, groups: Sequence[ScoredGroup]) -> dict[str, list[Message]] | None:
        """Return the messages of every prompt, None where the policy reads plain text.

        A candidate's record holds only the last message of a chat.
        """
        if not self.policy.use_chat_template:
            return None
        return {group.prompt_id: self._chat(group.candidates[0]) for group in groups}

    def remark(
        self, candidates: Sequence[Candidate], chats: Mapping[str, Sequence[Message]] | None
    ) -> str | None:
        """Say how many candidates a trainer reads with other tokens; None if there are none."""
        counts: Counter[str] = Counter()
        prompts: dict[str, bool] = {}
        for candidate in candidates:
            chat = None if chats is None else chats[candidate.prompt_id]
            prompt_ids, token_ids = self._read(candidate, chat)
            prompts[candidate.prompt_id] = prompt_ids != candidate.prompt_token_ids
            if candidate.finish_reason == "length":
                counts[CUT] += 1
            elif token_ids != candidate.token_ids:
                counts[OTHER_ANSWER] += 1
        counts[OTHER_PROMPT] = sum(prompts.values())
        remarks = "; ".join(f"{count} {what}" for what, count in counts.items() if count)
        if not remarks:
            return None
        return (
            f"Encoded again with the policy's tokenizer, of {len(candidates)} answers to "
            f"{len(prompts)} prompts: {remarks} (--format candidates has the tokens themselves)."
        )

    def _chat(self, candidate: Candidate) -> list[Message]:
        """Return the messages that give exactly the prompt tokens that were answered."""
        shown = Prompt(candidate.prompt_id, candidate.prompt_text, "train")
        known = self.prompts.get(candidate.prompt_id)
        likely = [shown] if known is None or known.text != candidate.prompt_text else [known, shown]
        for prompt in likely:
            try:
                token_ids = self.policy.encode(prompt)
            except BonbonError:
                continue
            if token_ids == candidate.prompt_token_ids:
                return self.policy.messages(prompt)
        return self.policy.messages(likely[0])

    def _read(
        self, candidate: Candidate, chat: Sequence[Message] | None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the token ids that a trainer makes of a prompt and of its answer."""
        tokenizer = self.policy.tokenizer
        if chat is None:
            end = str(tokenizer.eos_token or "")
            text = candidate.text if candidate.text.endswith(end) else candidate.text + end
            prompt = tuple(tokenizer(candidate.prompt_text)["input_ids"])
            whole = tuple(tokenizer(candidate.prompt_text + text)["input_ids"])
        else:
            answer = Message(role="assistant", content=candidate.text)
            try:
                prompt = self._rendered(chat, add_generation_prompt=True)
                whole = self._rendered([*chat, answer], add_generation_prompt=False)
            except PromptError:  # no trainer can read such a row
                return (), ()
        pairs = zip(prompt, whole, strict=False)
        start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return prompt[:start], self._ended(whole[start:])

    def _rendered(
        self, messages: Sequence[Message], *, add_generation_prompt: bool
    ) -> tuple[int, ...]:
        """Encode messages with today's date, because other trainers do not know the run's clock."""
        text = render_chat(
            self.policy.tokenizer,
            messages,
            clock=datetime.now(),
            add_generation_prompt=add_generation_prompt,
        )
        return tuple(self.policy.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _ended(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return an answer's ids up to its end; some templates write spaces after it."""
        ends = self.policy.eos_token_ids
        end = next((index for index, token in enumerate(token_ids) if token in ends), None)
        if end is None or self.policy.decode(token_ids[end + 1 :]).strip():
            return token_ids
        return token_ids[: end + 1]


WRITERS = {"pairs": export_pairs, "sft": export_sft, "unpaired": export_unpaired}
"""Functions that write rows of texts, or of messages if the policy reads chats."""


@dataclass(frozen=True)
class Export:
    """The result of an export.

    Attributes:
        count: numbers of rows and of prompts left out.
        remark: a sentence about candidates that a trainer reads with other tokens; None if there
            are none.
    """

    count: ExportCount
    remark: str | None = None


def export_run(
    directory: AnyPath, file: AnyPath, *, format: str, set_name: str, reward: str | None = None
) -> Export:
    """Write a set of a run's scored candidates, ranked as training ranks them.

    Args:
        directory: the run directory.
        file: the file to write: .jsonl, .parquet or .csv.
        format: one of `WRITERS`, or `candidates` for all of them as they are stored.
        set_name: `train`, `eval-base` or `eval-bonbon`.
        reward: name of the scores to rank by; by default the recipe's.

    Raises:
        BonbonError: not a run directory, or it has no such set, or the set is not scored.
    """
    if format not in (formats := [*WRITERS, "candidates"]):
        raise ConfigError(f"got format {format!r}, expected one of {', '.join(formats)}")
    directory, file = as_path(directory), as_path(file)
    recipe = load_run_recipe(directory)
    store = CandidateStore(directory)
    name = reward or recipe.reward.score_name
    scored = "" if name == recipe.reward.score_name else f".{name}"
    refuse_damage(directory, [f"sample-{set_name}", f"score-{set_name}{scored}"])
    if not store.shards(set_name):
        raise ConfigError(
            f"{directory} has no candidates of the set {set_name!r}; draw them first, or name "
            "another set with --of"
        )
    groups = store.groups(set_name, name)
    orders = [
        rank_order(group.rewards, rng=tie_rng(recipe.seed, group.prompt_id)) for group in groups
    ]
    if format == "candidates":
        return Export(export_candidates(file, groups, orders=orders))
    reading = TrainerReading(_tokenizer(recipe, directory), _prompts(recipe, directory))
    chats = reading.chats(groups)
    count = WRITERS[format](file, groups, orders=orders, chats=chats)
    return Export(count, reading.remark(_exported(groups, orders, format), chats))


def _exported(
    groups: Sequence[ScoredGroup], orders: Sequence[Order], format: str
) -> list[Candidate]:
    ranks = (-1,) if format == "sft" else (0, -1)
    return [
        group.candidates[order[rank]]
        for group, order in untied_groups(groups, orders)
        for rank in ranks
    ]


def _tokenizer(recipe: Recipe, directory: Path) -> PolicyTokenizer:
    """Return the tokenizer of the policy, or the trained model's if the policy is missing.

    A run directory may come from another person, so code that it names is not executed.
    """
    recipe = recipe.model_copy(
        update={"policy": recipe.policy.model_copy(update={"trust_remote_code": False})}
    )
    try:
        return load_policy_tokenizer(recipe.policy)
    except PolicyError:
        trained = directory / "model"
        if not trained.is_dir():
            raise
        return load_policy_tokenizer(recipe.policy.saved_in(trained))


def _prompts(recipe: Recipe, directory: Path) -> dict[str, Prompt]:
    try:
        prompts = RunDirectory(directory, recipe, Console(quiet=True)).prompts
    except PromptError:  # a run directory may be copied without its prompt file
        return {}
    return {prompt.id: prompt for prompt in prompts}
