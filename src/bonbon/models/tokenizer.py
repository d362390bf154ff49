"""What turns prompts into a policy's token ids and its tokens into text, without its weights."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import cast

from transformers import PreTrainedTokenizerBase

from bonbon.errors import PolicyError, PromptError
from bonbon.models.chat_template import left_out, render_chat
from bonbon.records import Message, Prompt


@dataclass(frozen=True)
class PolicyTokenizer:
    """A policy's tokenizer with the choices that decide what the policy reads.

    Attributes:
        name: what to call the policy in reports and manifests.
        tokenizer: the model's own.
        eos_token_ids: every id that ends a completion, at least one; a turn that is made, not
            drawn, ends with the first.
        use_chat_template: whether prompts go through the tokenizer's chat template.
        context_length: longest sequence the model takes, in tokens; None if its config does not
            say.
        vocabulary_size: how many ids the model knows; None if that is not known.
        clock: the moment that the chat template takes for the present.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: tuple[int, ...]
    use_chat_template: bool
    context_length: int | None
    vocabulary_size: int | None = field(default=None, kw_only=True)
    clock: datetime = field(default_factory=datetime.now, kw_only=True)

    def encode(self, prompt: Prompt, *, max_new_tokens: int | None = None) -> tuple[int, ...]:
        """Return the token ids that condition the policy on a prompt.

        Args:
            prompt: what to answer.
            max_new_tokens: check that an answer of this length fits the model's context.

        Raises:
            PromptError: the prompt cannot be read by the policy as it stands, or leaves no room
                for an answer.
            PolicyError: the model does not know a token that its tokenizer gives.
        """
        token_ids = self._token_ids(prompt)
        if not token_ids:
            raise PromptError(
                f"prompt {prompt.id!r} comes to no tokens with the tokenizer of {self.name}; "
                "expected at least one: leave it out, or check the chat template"
            )
        self._check_known(token_ids, f"prompt {prompt.id!r}")
        room, needed = self.context_length, len(token_ids) + (max_new_tokens or 0)
        if max_new_tokens is not None and room is not None and needed > room:
            raise PromptError(
                f"prompt {prompt.id!r} has {len(token_ids)} tokens, and with max_new_tokens = "
                f"{max_new_tokens} it needs {needed}; {self.name} takes {room}: "
                "shorten the prompt or lower sampling.max_new_tokens"
            )
        return token_ids

    def encode_completion(self, text: str, *, ended: bool = True) -> tuple[int, ...]:
        """Return the token ids of a completion that was written, not drawn.

        Args:
            text: what it says; some data sets write the end of the turn out.
            ended: end it as the policy ends a turn.

        Raises:
            PolicyError: the model does not know a token that its tokenizer gives.
        """
        token_ids = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        self._check_known(token_ids, "a completion")
        if not ended:
            return token_ids
        written = [place for place, one in enumerate(token_ids) if one in self.eos_token_ids]
        if written and not self.decode(token_ids[written[0] + 1 :]).strip():
            return token_ids[: written[0] + 1]
        return (*token_ids, self.eos_token_ids[0])

    def decode(self, token_ids: Sequence[int], *, with_special: bool = False) -> str:
        """Return a completion's text, its end and other special tokens left out or written out."""
        if not with_special and token_ids and token_ids[-1] in self.eos_token_ids:
            token_ids = token_ids[:-1]  # an end need not be a special token
        return cast(
            "str", self.tokenizer.decode(list(token_ids), skip_special_tokens=not with_special)
        )

    def without_special(self, text: str) -> str:
        """Return what `decode` gives, from a text with its special tokens written out."""
        longest_first = sorted(self.special_tokens, key=len, reverse=True)
        return re.sub("|".join(map(re.escape, longest_first)) or "(?!)", "", text)

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """The tokens that a text is shown without, by what they are when written out."""
        added = self.tokenizer.added_tokens_decoder.items()
        ids = {token_id for token_id, token in added if token.special}
        ids |= {*self.tokenizer.all_special_ids, *self.eos_token_ids}
        return {self.decode((token_id,), with_special=True): token_id for token_id in sorted(ids)}

    def messages(self, prompt: Prompt) -> list[Message]:
        """Return a prompt as chat messages; plain text is a user's one turn."""
        if isinstance(prompt.content, str):
            return [Message(role="user", content=prompt.content)]
        return [
            Message(role=message["role"], content=message["content"]) for message in prompt.content
        ]

    def _token_ids(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt.content, str) and not self.use_chat_template:
            return self._plain_ids(prompt.content)
        if not self.use_chat_template:
            raise PromptError(
                f"prompt {prompt.id!r} is a list of chat messages, but {self.name} has no chat "
                "template in use; give plain text, or a policy whose tokenizer has one"
            )
        text = self._chat(prompt)
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _plain_ids(self, text: str) -> tuple[int, ...]:
        """Return a text's ids with what the tokenizer puts before a text, and nothing after it.

        Some tokenizers append an end, behind which the answer would be another text's. What is put
        before is put there once: a text may bring it.
        """
        framed = tuple(self.tokenizer(text)["input_ids"])
        bare = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        for start in range(len(framed) - len(bare) + 1):
            if framed[start : start + len(bare)] == bare:
                before = framed[:start]
                return bare if before and bare[:start] == before else before + bare
        return framed

    def _chat(self, prompt: Prompt) -> str:
        """Return what the chat template makes of a prompt."""
        messages = self.messages(prompt)
        remedy = "change the messages, or give another template with policy.chat_template"
        try:
            text = render_chat(
                self.tokenizer, messages, clock=self.clock, add_generation_prompt=True
            )
        except PromptError as error:
            raise PromptError(f"prompt {prompt.id!r}: {error}; {remedy}") from error
        missing = left_out(messages, text)
        if missing is not None:
            raise PromptError(
                f"prompt {prompt.id!r}: the chat template of {self.name} leaves out the message of "
                f"the role {missing['role']!r}, so the policy would not read it; {remedy}"
            )
        return text

    def _check_known(self, token_ids: Sequence[int], what: str) -> None:
        size = self.vocabulary_size
        if size is None or max(token_ids, default=0) < size:
            return
        token_id = max(token_ids)
        token = self.tokenizer.convert_ids_to_tokens(token_id)
        raise PolicyError(
            f"{what} holds the token {token!r}, id {token_id}, but {self.name} knows the ids below "
            f"{size} alone: its tokenizer is larger than the model; expected the tokenizer that "
            "the model was trained with, or a model resized to it"
        )
