"""What ends a completion: the policy's end-of-sequence tokens, and strings in its text.

Stop strings are looked for in the text with its special tokens written out, so that they may be,
or contain, special tokens; the text that is kept is without them.
"""

from collections.abc import Sequence

from bonbon.models.tokenizer import PolicyTokenizer


class Ending:
    """Tells when a completion is over, and which part of it is text."""

    def __init__(self, tokenizer: PolicyTokenizer, stop: Sequence[str] = ()) -> None:
        """Take what turns tokens into text, and the strings that end it."""
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        added = tokenizer.special_tokens
        named = [added[string] for string in stop if string in added]
        self.token_ids = tuple(dict.fromkeys((*tokenizer.eos_token_ids, *named)))
        """The tokens that end a completion, stop strings that are one among them."""
        self.shows_special = any(token in string for token in added for string in stop)
        """Whether a stop string can be found only where special tokens are written out."""
        # A token holds at least one byte, and a character has at most four.
        self._tail = 4 * max(map(len, stop), default=0) + 1

    def reached(self, token_ids: Sequence[int]) -> bool:
        """Say whether the last token ended a completion."""
        if token_ids[-1] in self.token_ids:
            return True
        if not self._stop:
            return False
        tail = self._tokenizer.decode(token_ids[-self._tail :], with_special=True)
        return any(string in tail for string in self._stop)

    def within(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """Return the tokens up to the one that ended a completion; a server may have gone on."""
        for count in range(1, len(token_ids)):
            if self.reached(token_ids[max(0, count - self._tail) : count]):
                return tuple(token_ids[:count])
        return tuple(token_ids)

    def text(self, token_ids: Sequence[int]) -> str:
        """Return a completion's text, cut before the first stop string."""
        if not self._stop:
            return self._tokenizer.decode(token_ids)
        whole = self._tokenizer.decode(token_ids, with_special=True)
        places = [place for string in self._stop if (place := whole.find(string)) >= 0]
        if not places:
            return self._tokenizer.decode(token_ids)
        return self._tokenizer.without_special(whole[: min(places)])
