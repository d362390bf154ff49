"""How other trainers read exported rows: by the tokenizer, from texts and messages alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile

from bonbon.errors import BonbonError, PromptError
from bonbon.models.chat_template import render_chat
from bonbon.models.tokenizer import PolicyTokenizer
from bonbon.records import Candidate, Message, Prompt, ScoredGroup

CUT = "answers were cut at the length limit, and are given an end"
OTHER_ANSWER = "answers come to other tokens than were drawn"
OTHER_PROMPT = "prompts come to other tokens than were answered"


@dataclass(frozen=True)
class TrainerReading:
    """Reads rows as TRL's trainers do, to tell what of them is not what was drawn.

    Attributes:
        policy: the tokenizer that the trainer is given.
        prompts: those of the recipe's file, by id; none if it is gone.
    """

    policy: PolicyTokenizer
    prompts: Mapping[str, Prompt]

    def chats(self, groups: Sequence[ScoredGroup]) -> dict[str, list[Message]] | None:
        """Return the messages of every prompt, None where the policy reads plain text.

        Of a chat the record itself holds no more than the last message.
        """
        if not self.policy.use_chat_template:
            return None
        return {group.prompt_id: self._chat(group.candidates[0]) for group in groups}

    def remark(
        self, candidates: Sequence[Candidate], chats: Mapping[str, Sequence[Message]] | None
    ) -> str | None:
        """Say how many of some exported candidates are read otherwise; None if none is."""
        found: Counter[str] = Counter()
        prompts: dict[str, bool] = {}
        for candidate in candidates:
            chat = None if chats is None else chats[candidate.prompt_id]
            prompt_ids, token_ids = self._read(candidate, chat)
            prompts[candidate.prompt_id] = prompt_ids != candidate.prompt_token_ids
            if candidate.finish_reason == "length":
                found[CUT] += 1
            elif token_ids != candidate.token_ids:
                found[OTHER_ANSWER] += 1
        found[OTHER_PROMPT] = sum(prompts.values())
        told = "; ".join(f"{count} {what}" for what, count in found.items() if count)
        if not told:
            return None
        return (
            f"Read back with the policy's tokenizer, of {len(candidates)} answers to "
            f"{len(prompts)} prompts: {told} (--format candidates has the tokens themselves)."
        )

    def _chat(self, candidate: Candidate) -> list[Message]:
        """Return the messages of the prompt that comes to the very tokens that were answered."""
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
            except PromptError:  # then no trainer can read the row
                return (), ()
        pairs = zip(prompt, whole, strict=False)
        start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return prompt[:start], self._ended(whole[start:])

    def _rendered(
        self, messages: Sequence[Message], *, add_generation_prompt: bool
    ) -> tuple[int, ...]:
        """Encode messages as they are read today: other trainers do not keep a run's clock."""
        text = render_chat(
            self.policy.tokenizer,
            messages,
            clock=datetime.now(),
            add_generation_prompt=add_generation_prompt,
        )
        return tuple(self.policy.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _ended(self, token_ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return an answer's ids up to its end; templates write spaces behind it."""
        ends = self.policy.eos_token_ids
        place = next((place for place, one in enumerate(token_ids) if one in ends), None)
        if place is None or self.policy.decode(token_ids[place + 1 :]).strip():
            return token_ids
        return token_ids[: place + 1]
