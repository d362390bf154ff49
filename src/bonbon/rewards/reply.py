"""What of a judge's reply may state its verdict, and which of its verdicts holds."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from bonbon.models.openai_answer import Choice

_THINKS = r"(?:\w+:)?(?:think(?:ing)?|thoughts?|reason(?:ing)?|analysis|reflection|scratchpad)"
_THOUGHT_START = re.compile(rf"[<\[◁]{_THINKS}[>\]▷]|<\|channel\|>", re.IGNORECASE)
_THOUGHT_END = re.compile(
    rf"[<\[◁]/{_THINKS}[>\]▷]|<\|channel\|>final(?:<\|message\|>)?", re.IGNORECASE
)

_QUOTE = re.compile(
    r'"(?:\\.|[^"\\\n])*"|“[^”]*”|«[^»]*»|^[ \t]*>[^\n]*'
    r"|<(?P<tag>answer|request|response)\b[^>]*>.*?</(?P=tag)\b[^>]*>",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
_TAKEN_BACK = re.compile(
    r"\b(?:[Nn]o,|[Rr]ather,|Actually\b,?|actually,|[Ww]ait[,.:!]|[Cc]orrection:"
    r"|[Oo]n (?:reflection|second thoughts?)\b,?|[Ss]cratch that\b[,.:]?|I mean\b,?)"
)
_MARKUP = re.compile(r"[*_`\"“”]|^\s*#+(?=\s)|</?[a-z][\w ]*>", re.IGNORECASE | re.MULTILINE)
_LISTED = re.compile(r"^[ \t]*(?:\d+|[A-Z])(?:[.):]|[ \t]+[-–—])(?=[ \t]+\S)", re.MULTILINE)
_LINE = re.compile(r"[^\n]+")
_CLAUSE = re.compile(r"(?:[^.;!?。]|\.(?=\d))+([.;!?。]*)")
_GOES_ON = re.compile(r"[ \t]*\n[ \t]*(?!because\b|since\b)[a-z]")
_CLOSING = " \t.;!?。"

LEAD = (
    r"\s*(?:(?:so|thus|hence|therefore|in (?:short|summary|conclusion)),?\s+)?"
    r"(?:i (?:think|believe)\s+(?:that\s+)?)?(?:here(?:['’]s| is)\s+)?(?:(?:my|the|its)\s+)?"
    r"(?P<final>(?:final|overall)\s+)?"
)
"""What may come before a verdict or its name."""

ASIDE = (
    r"(?:\s+(?:for|of)\s+(?:it|this|(?:this|the)\s+(?:answer|response|reply)))?"
    r"(?:\s*[(\[](?!\s*\w\s*[)\]])(?P<reminder>[^()\[\]]*)[)\]])?"
)
"""What may come after the name of a verdict: of what it is, or a reminder of the scale."""

IS = r"\s*(?:\bis\b\s*:?|\bof\b|[:：=]|[-–—](?=\s))?\s*[(\[{]*\s*"
"""What may come between the name of a verdict and the verdict."""

_DOUBT = re.compile(
    r"\b(?:but|though|although|however|or|if|unless|except|maybe|perhaps|(?:un|not )sure"
    r"|probably|possibly|guess|hard to|could|would|should|might|may)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict, and where in the reply the word stands that states it.

    Attributes:
        plain: the word itself is the verdict, so that another word in its place is another one.
        final: it is called the final one.
    """

    value: float
    start: int
    word: str
    plain: bool = True
    final: bool = False


@dataclass(frozen=True, slots=True)
class _Clause:
    """A stretch of a reply, up to the end of a sentence or a line.

    Attributes:
        placed: it opens a reply that was said to the end, or is the first or the last line.
    """

    start: int
    end: int
    placed: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """A judge's reply without its reasoning, its quotes and what it took back.

    Blanks stand where they were, so that places are those of the whole reply.

    Attributes:
        marked: the text with its markup, in which forms such as `[[4]]` are looked for.
        text: the text without its markup.
        cut: its end was not said.
    """

    marked: str
    text: str
    cut: bool

    def without(self, pattern: re.Pattern[str]) -> "Reply":
        """Return the reply with what the pattern finds blanked."""
        return Reply(self.marked, _without(pattern, self.text), self.cut)

    def verdicts(
        self,
        named: Sequence[re.Pattern[str]],
        bare: re.Pattern[str],
        read: Callable[[re.Match[str]], Verdict | None],
    ) -> list[Verdict]:
        """Return the verdicts that whole clauses state.

        Args:
            named: forms that say what they are.
            bare: the verdict by itself. It counts at the start or on a line of its own, and if
                it is said elsewhere too, as of every one of several things, that counts with it.
            read: what a form states.
        """
        stated: dict[str, list[Verdict]] = {"named": [], "placed": [], "elsewhere": []}
        for clause in self._clauses():
            for form in (*named, bare):
                found = form.fullmatch(self.text, clause.start, clause.end)
                if found is None or _DOUBT.search(reason_in(found)):
                    continue
                if (verdict := read(found)) is not None:
                    place = "placed" if clause.placed else "elsewhere"
                    stated[place if form is bare else "named"].append(verdict)
                    break
        if stated["named"] or not stated["placed"]:
            return stated["named"] + stated["placed"]
        return stated["placed"] + stated["elsewhere"]

    def _clauses(self) -> Iterator[_Clause]:
        """Yield the stretches that could state a verdict: no questions, nothing half said."""
        lines = [line for line in _LINE.finditer(self.text) if line[0].strip(_CLOSING)]
        parts = [
            [part for part in _CLAUSE.finditer(self.text, *line.span()) if part[0].strip(_CLOSING)]
            for line in lines
        ]
        for number, line in enumerate(parts):
            for part in line:
                first, last = part is parts[0][0], part is parts[-1][-1]
                whole = first and last and len(part[0].split()) == 1
                # A sentence that goes on in the next line is no verdict by its first word.
                runs_on = not part[1] and _GOES_ON.match(self.text, part.end())
                if (self.cut and last and not whole) or "?" in part[1] or ".." in part[1]:
                    continue
                yield _Clause(
                    part.start(),
                    part.start(1),
                    placed=not runs_on
                    and (
                        (first and (whole or not self.cut))
                        or (len(line) == 1 and number in {0, len(parts) - 1})
                    ),
                )


def reply_of(choice: Choice) -> Reply | None:
    """Return what a judge said, or None if it did not come to the end of its reasoning."""
    text = _from_last(_THOUGHT_END, choice.content)
    if _THOUGHT_START.search(text):
        return None
    marked = _from_last(_TAKEN_BACK, _without_quotes(text))
    plain = _without(_MARKUP, marked)
    if len(_LISTED.findall(plain)) > 1:
        plain = _without(_LISTED, plain)
    return Reply(marked, plain, cut=choice.finish_reason in {"length", "content_filter"})


def reason(opening: str) -> str:
    """Return the form of what may come after a verdict: a reason, opened by such a sign."""
    return (
        r"\s*(?:\((?P<aside>[^()]*)\)\s*"
        rf"|(?:{opening}|(?<=\s)[-–—](?=\s)|\b(?:because|since)\b)(?P<reason>.*))?"
    )


def reason_in(found: re.Match[str]) -> str:
    """Return the reason that a form gives for its verdict."""
    groups = found.groupdict()
    return groups.get("reason") or groups.get("aside") or ""


def the_one(verdicts: Iterable[Verdict]) -> Verdict | None:
    """Return the verdict on which all agree, or all those that are called final."""
    stated = list(verdicts)
    stated = [verdict for verdict in stated if verdict.final] or stated
    return stated[-1] if len({verdict.value for verdict in stated}) == 1 else None


def _from_last(pattern: re.Pattern[str], text: str) -> str:
    found = list(pattern.finditer(text))
    return _blanks(text[: found[-1].end()]) + text[found[-1].end() :] if found else text


def _without(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda found: _blanks(found[0]), text)


def _without_quotes(text: str) -> str:
    """Blank what is quoted, except single words: JSON's keys and values, a verdict in a tag."""

    def kept(found: re.Match[str]) -> str:
        return found[0] if len(_MARKUP.sub("", found[0]).split()) < 2 else _blanks(found[0])

    return _QUOTE.sub(kept, text)


def _blanks(text: str) -> str:
    """Return blanks in place of a text, its lines kept."""
    return re.sub(r"[^\n]", " ", text)
