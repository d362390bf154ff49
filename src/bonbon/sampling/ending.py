"""What ends a completion: the policy's end-of-sequence tokens, and strings in its text."""

from collections.abc import Sequence

from bonbon.models.tokenizer import PolicyTokenizer


class Ending:
    """Tells when a completion is over, and which part of it is text."""

    def __init__(self, tokenizer: PolicyTokenizer, stop: Sequence[str] = ()) -> None:
        """Take what turns tokens into text, and the strings that end it."""
        self._tokenizer = tokenizer
        self._eos = frozenset(tokenizer.eos_token_ids)
        self._stop = tuple(stop)
        # A token holds at least one byte, and a character has at most four.
        self._tail = 4 * max(map(len, stop), default=0) + 1

    def reached(self, token_ids: Sequence[int]) -> bool:
        """Say whether the last token ended a completion."""
        if token_ids[-1] in self._eos:
            return True
        if not self._stop:
            return False
        tail = self._tokenizer.decode(tuple(token_ids[-self._tail :]))
        return any(string in tail for string in self._stop)

    def text(self, token_ids: Sequence[int]) -> str:
        """Return a completion's text, cut before the first stop string."""
        text = self._tokenizer.decode(tuple(token_ids))
        places = [place for string in self._stop if (place := text.find(string)) >= 0]
        return text[: min(places)] if places else text
