"""What turns prompts into a policy's token ids and its tokens into text, without its weights."""

from dataclasses import dataclass
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from bonbon.errors import PromptError
from bonbon.records import Prompt


@dataclass(frozen=True)
class PolicyTokenizer:
    """A policy's tokenizer with the choices that decide what the policy reads.

    Attributes:
        name: what to call the policy in reports and manifests.
        tokenizer: the model's own.
        eos_token_ids: every id that ends a completion, at least one.
        use_chat_template: whether prompts go through the tokenizer's chat template.
        context_length: longest sequence the model takes, in tokens; None if its config does not
            say.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    eos_token_ids: tuple[int, ...]
    use_chat_template: bool
    context_length: int | None

    def encode(self, prompt: Prompt, *, max_new_tokens: int | None = None) -> tuple[int, ...]:
        """Return the token ids that condition the policy on a prompt.

        Args:
            prompt: what to answer.
            max_new_tokens: check that an answer of this length fits the model's context.

        Raises:
            PromptError: chat messages, but no chat template to render them with; or a prompt
                that leaves no room for an answer.
        """
        token_ids = self._token_ids(prompt)
        room, needed = self.context_length, len(token_ids) + (max_new_tokens or 0)
        if max_new_tokens is not None and room is not None and needed > room:
            raise PromptError(
                f"prompt {prompt.id!r} has {len(token_ids)} tokens, and with max_new_tokens = "
                f"{max_new_tokens} it needs {needed}; {self.name} takes {room}: "
                "shorten the prompt or lower sampling.max_new_tokens"
            )
        return token_ids

    def decode(self, token_ids: tuple[int, ...]) -> str:
        """Return a completion's text, special tokens left out."""
        return cast("str", self.tokenizer.decode(list(token_ids), skip_special_tokens=True))

    def messages(self, prompt: Prompt) -> list[dict[str, str]]:
        """Return a prompt as chat messages; plain text is a user's one turn."""
        if isinstance(prompt.content, str):
            return [{"role": "user", "content": prompt.content}]
        return [
            {"role": message["role"], "content": message["content"]} for message in prompt.content
        ]

    def _token_ids(self, prompt: Prompt) -> tuple[int, ...]:
        if isinstance(prompt.content, str) and not self.use_chat_template:
            return tuple(self.tokenizer(prompt.content)["input_ids"])
        if not self.use_chat_template:
            raise PromptError(
                f"prompt {prompt.id!r} is a list of chat messages, but {self.name} has no chat "
                "template in use; give plain text, or a policy whose tokenizer has one"
            )
        text = self.tokenizer.apply_chat_template(
            cast("Any", self.messages(prompt)), add_generation_prompt=True, tokenize=False
        )
        return tuple(self.tokenizer(cast("str", text), add_special_tokens=False)["input_ids"])
