"""Parsing a judge's reply: a score or a preference, from its text and token probabilities.

A verdict is read only where a careful reader could not doubt it; anything else is no verdict.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bonbon.openai_api.schema import Choice

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
"""Text that may precede a verdict or its name."""

ASIDE = (
    r"(?:\s+(?:for|of)\s+(?:it|this|(?:this|the)\s+(?:answer|response|reply)))?"
    r"(?:\s*[(\[](?!\s*\w\s*[)\]])(?P<reminder>[^()\[\]]*)[)\]])?"
)
"""Text that may follow the name of a verdict: what it is about, or the scale."""

IS = r"\s*(?:\bis\b\s*:?|\bof\b|[:：=]|[-–—](?=\s))?\s*[(\[{]*\s*"
"""Text that may stand between the name of a verdict and the verdict."""

_DOUBT = re.compile(
    r"\b(?:but|though|although|however|or|if|unless|except|maybe|perhaps|(?:un|not )sure"
    r"|probably|possibly|guess|hard to|could|would|should|might|may)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A verdict, and the position in the reply of the word that states it.

    Attributes:
        plain: the word itself is the verdict, so that another word there would be another verdict.
        final: the reply calls it the final verdict.
    """

    value: float
    start: int
    word: str
    plain: bool = True
    final: bool = False


@dataclass(frozen=True, slots=True)
class _Clause:
    """A part of a reply that ends with a sentence or a line.

    Attributes:
        placed: it opens a complete reply, or is the first or the last line.
    """

    start: int
    end: int
    placed: bool


@dataclass(frozen=True, slots=True)
class Reply:
    """A judge's reply without its reasoning, quotes and retracted statements.

    These are replaced by blanks, so that positions are those of the whole reply.

    Attributes:
        marked: the text with its markup, which is searched for forms such as `[[4]]`.
        text: the text without its markup.
        cut: the reply was cut off.
    """

    marked: str
    text: str
    cut: bool

    def without(self, pattern: re.Pattern[str]) -> "Reply":
        """Return the reply with all matches of the pattern blanked."""
        return Reply(self.marked, _without(pattern, self.text), self.cut)

    def verdicts(
        self,
        named: Sequence[re.Pattern[str]],
        bare: re.Pattern[str],
        read: Callable[[re.Match[str]], Verdict | None],
    ) -> list[Verdict]:
        """Return the verdicts in whole clauses.

        Args:
            named: forms that name the verdict.
            bare: form of the verdict alone. It counts at the start or on a line of its own; if
                there is one, other occurrences of the form count too.
            read: returns the verdict of a match.
        """
        stated: dict[str, list[Verdict]] = {"named": [], "placed": [], "elsewhere": []}
        for clause in self._clauses():
            for form in (*named, bare):
                match = form.fullmatch(self.text, clause.start, clause.end)
                if match is None or _DOUBT.search(reason_in(match)):
                    continue
                if (verdict := read(match)) is not None:
                    where = "placed" if clause.placed else "elsewhere"
                    stated[where if form is bare else "named"].append(verdict)
                    break
        if stated["named"] or not stated["placed"]:
            return stated["named"] + stated["placed"]
        return stated["placed"] + stated["elsewhere"]

    def _clauses(self) -> Iterator[_Clause]:
        """Yield the clauses that could state a verdict: no questions, no unfinished clauses."""
        lines = [line for line in _LINE.finditer(self.text) if line[0].strip(_CLOSING)]
        parts = [
            [part for part in _CLAUSE.finditer(self.text, *line.span()) if part[0].strip(_CLOSING)]
            for line in lines
        ]
        for number, line in enumerate(parts):
            for part in line:
                first, last = part is parts[0][0], part is parts[-1][-1]
                whole = first and last and len(part[0].split()) == 1
                # The first word of a sentence that continues in the next line is not a verdict.
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
    """Return a judge's reply, or None if its reasoning has no end."""
    text = _from_last(_THOUGHT_END, choice.content)
    if _THOUGHT_START.search(text):
        return None
    marked = _from_last(_TAKEN_BACK, _without_quotes(text))
    plain = _without(_MARKUP, marked)
    if len(_LISTED.findall(plain)) > 1:
        plain = _without(_LISTED, plain)
    return Reply(marked, plain, cut=choice.finish_reason in {"length", "content_filter"})


def reason(opening: str) -> str:
    """Return the pattern of text after a verdict: a reason that begins with the given sign."""
    return (
        r"\s*(?:\((?P<aside>[^()]*)\)\s*"
        rf"|(?:{opening}|(?<=\s)[-–—](?=\s)|\b(?:because|since)\b)(?P<reason>.*))?"
    )


def reason_in(match: re.Match[str]) -> str:
    """Return the reason in a match, empty if there is none."""
    groups = match.groupdict()
    return groups.get("reason") or groups.get("aside") or ""


def the_one(verdicts: Iterable[Verdict]) -> Verdict | None:
    """Return the verdict if all agree, or if all final verdicts agree."""
    stated = list(verdicts)
    stated = [verdict for verdict in stated if verdict.final] or stated
    return stated[-1] if len({verdict.value for verdict in stated}) == 1 else None


def _from_last(pattern: re.Pattern[str], text: str) -> str:
    matches = list(pattern.finditer(text))
    return _blanks(text[: matches[-1].end()]) + text[matches[-1].end() :] if matches else text


def _without(pattern: re.Pattern[str], text: str) -> str:
    return pattern.sub(lambda match: _blanks(match[0]), text)


def _without_quotes(text: str) -> str:
    """Blank quotes, except single words: JSON's keys and values, a verdict in a tag."""

    def kept(match: re.Match[str]) -> str:
        return match[0] if len(_MARKUP.sub("", match[0]).split()) < 2 else _blanks(match[0])

    return _QUOTE.sub(kept, text)


def _blanks(text: str) -> str:
    """Return blanks instead of a text, with its line breaks."""
    return re.sub(r"[^\n]", " ", text)


PREFERENCES = {"A": 1.0, "B": 0.0, "C": 0.5}
"""P(the first answer is better) by verdict; C is a tie."""

_PREFERENCE_KEY = r"(?i:verdict|winner|better|preferred|preference|choice)"
_TIE = r"(?i:(?:tie|draw)\b)"
_PREFERENCE_MARKED = [
    re.compile(form)
    for form in (
        rf"\[\[\s*(?P<word>[ABC]|{_TIE})\s*\]\]",
        rf"\\boxed\{{\s*(?P<word>[ABC]|{_TIE})\s*\}}",
        rf"<(?P<tag>{_PREFERENCE_KEY}|answer)>\s*(?P<word>[ABC]|{_TIE})\s*</(?P=tag)>",
        rf"\"{_PREFERENCE_KEY}\"\s*:\s*\"(?P<word>[ABC]|{_TIE})\"",
        r"\[\[\s*(?P<word>[AB])\s*(?P<sign>>+|<+|=)\s*(?P<other>[AB])\s*\]\]",
    )
]
"""Forms that only verdicts have."""

_OF = r"(?i:(?:the\s+)?(?:answer|response|reply|option|candidate|assistant)\s+)?[(\[]*"
_ONE = rf"{_OF}(?P<word>[ABC])\b[)\]]*"
_FIRST, _OTHER = rf"{_OF}(?P<word>[AB])\b[)\]]*", rf"{_OF}(?P<other>[AB])\b[)\]]*"
_KIND = r"(?:answer|response|reply|option|one)"
_BETTER = r"(?P<better>better|best|stronger|superior|preferable|preferred|the\s+winner)"
_WORSE = r"(?P<worse>worse|worst|weaker|inferior)"
_HOW = (
    r"(?:\s+(?:much|far|clearly|slightly|definitely|significantly|somewhat|overall|actually|really"
    r"|also|still|the))*"
)
_PREFERENCE_DENIED = re.compile(
    rf",?\s*\(?(?i:\b(?:not|rather than|instead of))\s+{_OF}[ABC]\b\)?(?=\s*(?:[.,;!)\n]|$))"
)
_CONTRARY = re.compile(
    r"\b(?:worse|worst|weaker|inferior|loses)\b|^(?=.*\b[AB]\b).*\b(?:better|best|stronger|wins)\b"
)
# After a colon, an answer may be reviewed instead of chosen; after a comma, others may follow it.
_AFTER = reason(r",(?!\s*(?:and\s+)?[ABC]\b)")

_COMPARISONS = (
    rf"{_FIRST}(?i:\s+is{_HOW}\s+(?:{_BETTER}|{_WORSE})\b(?:\s+{_KIND}\b)?)"
    rf"(?:(?i:\s+(?:than|to))\s+{_OTHER})?",
    rf"{_FIRST}(?i:\s+(?:beats|wins(?:\s+over)?|outperforms|(?P<worse>loses(?:\s+to)?))\b)"
    rf"(?:\s+{_OTHER})?",
)
_CLAIMS = [re.compile(rf"\b{comparison}") for comparison in _COMPARISONS]
# What follows a bare letter may be a remark on that answer, good or bad, as well as a reason.
_BARE = re.compile(rf"\s*{_ONE}[*_]*\s*(?:,?\s*\b(?:because|since)\b(?P<reason>.*))?")
_NAMED = [
    re.compile(form)
    for form in (
        rf"(?i:{LEAD}(?:verdict|winner|answer|choice|preference|pick|decision)\b{ASIDE}{IS})"
        rf"{_ONE}{_AFTER}",
        rf"(?i:{LEAD}(?:an?\s+)?(?:{_BETTER}|winning|{_WORSE})\b(?:\s+{_KIND}\b)?{IS})"
        rf"{_ONE}{_AFTER}",
        *(rf"(?i:{LEAD}){comparison}{_AFTER}" for comparison in _COMPARISONS),
        rf"(?i:{LEAD}i(?:\s+(?:would|will)|['’]d|['’]ll)?"
        rf"\s+(?:prefer|choose|pick|select|favou?r|go\s+with|vote\s+for)\s+){_FIRST}"
        rf"(?:(?i:\s+(?:over|to))\s+{_OTHER})?{_AFTER}",
        rf"\s*{_FIRST}\s*(?P<sign>>+|<+|=)\s*{_OTHER}{_AFTER}",
        rf"(?i:{LEAD}(?:it(?:\s+is|['’]s)\s+)?(?:an?\s+)?)(?P<word>{_TIE}){_AFTER}",
    )
]


def stated_preference(reply: Reply) -> Verdict | None:
    """Return the P(A is better) that a reply states, or None if it is ambiguous."""
    marked = [
        verdict
        for form in _PREFERENCE_MARKED
        for match in form.finditer(reply.marked)
        if (verdict := _preference_verdict(match)) is not None
    ]
    if marked:
        return the_one(marked)
    verdict = the_one(reply.without(_PREFERENCE_DENIED).verdicts(_NAMED, _BARE, _preference_only))
    claims = [_preference_verdict(match) for form in _CLAIMS for match in form.finditer(reply.text)]
    if verdict is None or any(claim and claim.value != verdict.value for claim in claims):
        return None
    return verdict


def _preference_only(match: re.Match[str]) -> Verdict | None:
    """Return the verdict of a match, None if its reason compares the answers again."""
    return None if _CONTRARY.search(reason_in(match)) else _preference_verdict(match)


def _preference_verdict(match: re.Match[str]) -> Verdict | None:
    """Return the verdict of a match, None if it compares an answer with itself."""
    groups = match.groupdict()
    word, other, sign = match["word"], groups.get("other"), groups.get("sign")
    if other == word:
        return None
    turned = bool(groups.get("worse")) or "<" in (sign or "")
    value = 0.5 if sign == "=" else PREFERENCES.get(word, 0.5)
    return Verdict(
        1 - value if turned else value,
        match.start("word"),
        word,
        plain=not turned and not sign,
        final=bool(groups.get("final")),
    )


_WORDS = {
    word: float(number)
    for number, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=1
    )
}
_ANY = rf"(?:\d+(?:\.\d+)?|(?:{'|'.join(_WORDS)})\b)"
_NUMBER = rf"(?P<word>{_ANY})(?![\d½¼¾])"
_ANOTHER = re.compile(_ANY, re.IGNORECASE)
_SCORE_DENIED = re.compile(
    rf",?\s*\(?\b(?:not|rather than|instead of)\s+(?:an?\s+)?{_ANY}(?![\d½¼¾]|\.\d)\)?",
    re.IGNORECASE,
)

_REVISED = re.compile(
    r"\b(?:lower|raise|change|revise|adjust|reduce|increase|drop|downgrade|upgrade)d?\b[^.\n]*"
    rf"\bto\s+(?:an?\s+)?{_ANY}",
    re.IGNORECASE,
)

_SCORE_KEY = r"(?:(?:final|overall)_)?(?:score|rating)"
_SCORE_MARKED = [
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"\[\[\s*{_NUMBER}\s*\]\]",
        rf"\\boxed\{{\s*{_NUMBER}\s*\}}",
        rf"<(?P<tag>{_SCORE_KEY})>\s*{_NUMBER}\s*</(?P=tag)>",
        rf"[\"']{_SCORE_KEY}[\"']\s*:\s*(?P<quote>[\"']?){_NUMBER}(?P=quote)\s*(?=[,}}\n])",
    )
]
"""Forms that only verdicts have."""

_BEST = re.compile(
    r"[\"'](?:out_?of|max(?:imum)?(?:_(?:score|rating))?|scale)[\"']\s*:\s*[\"']?"
    r"(?P<best>\d+(?:\.\d+)?)\b",
    re.IGNORECASE,
)
"""The best score, if a judge states it beside the score."""

_NAME = r"(?:score|rating|grade|mark|verdict|overall)\b"
_IT = r"(?:it|this|that|(?:the|this)\s+(?:answer|response|reply))"
_A = r"(?:(?:an?|as|at|with)\s+)*(?:(?:score|rating|grade|mark)\s+of\s+)?"


def stated_score(reply: Reply, *, scale: int) -> Verdict | None:
    """Return the score from 1 to `scale` that a reply states, or None if it is ambiguous."""
    if any(float(match["best"]) != scale for match in _BEST.finditer(reply.marked)):
        return None
    marked = [
        _score_verdict(match) for form in _SCORE_MARKED for match in form.finditer(reply.marked)
    ]
    if not marked and (_REVISED.search(reply.text) or _other_scale(scale).search(reply.text)):
        return None
    verdict = the_one(marked or _worded(reply, scale))
    return verdict if verdict is not None and 1 <= verdict.value <= scale else None


def _worded(reply: Reply, scale: int) -> list[Verdict]:
    """Return the scores in whole clauses: alone, after a name, or as "I give it a 4"."""
    best = rf"(?:{scale}(?:\.0)?|{[*_WORDS][scale - 1]})(?![\d.]*\d)"
    after = (
        rf"(?:\s*(?:/|\bout\s+of\b|\bof\b)\s*{best})?(?:\s*(?:points?|stars?|点|分|점)\b)?"
        rf"\s*[)\]}}]*{reason('[,:]')}"
    )
    named = (
        rf"{LEAD}{_NAME}(?:\s+out\s+of\s+{best})?{ASIDE}{IS}",
        rf"{LEAD}(?:i|we)(?:\s+(?:would|will|do)|['’]d|['’]ll)?\s+"
        rf"(?:give|rate|score|grade|award|assign|say)\s+(?:{_IT}\s+)?{_A}",
        rf"{LEAD}{_IT}\s+(?:deserves|merits|earns|gets|receives|rates)\s+{_A}",
        rf"{LEAD}(?:{_IT}\s+is|it['’]s)\s+an?\s+",
    )
    return (
        reply.without(_scale(best))
        .without(_SCORE_DENIED)
        .verdicts(
            [re.compile(rf"{form}{_NUMBER}{after}", re.IGNORECASE) for form in named],
            re.compile(rf"\s*[(\[]*{_NUMBER}{after}", re.IGNORECASE),
            _score_only,
        )
    )


def _scale(best: str) -> re.Pattern[str]:
    """Return the pattern of the scale, which a judge may repeat."""
    return re.compile(
        rf"[(\[]?(?:\b(?:on\s+)?(?:an?|the)\s+scale\s+)?(?:\b(?:from|of|between)\s+)?"
        rf"(?<![\d.,/])(?:1|one)\s*(?:\([^()]*\))?\s*(?:-|–|—|\.\.\.?|\b(?:to|and|through)\b)\s*"
        rf"{best}\s*(?:\([^()]*\)|[)\]])?\s*[,:]?"
        rf"|\bon\s+(?:an?|the)\s+scale\s+of\s+{best}\s*[,:]?",
        re.IGNORECASE,
    )


def _other_scale(scale: int) -> re.Pattern[str]:
    """Return the pattern of another scale: a number on it is not a score on this scale."""
    ends = rf"(?!{scale}\b)\d+"
    return re.compile(
        r"(?:\bout\s+of|/|\bscale\s+of)\s*(?:10|100)\b"
        rf"|\b(?:scale|score|rating|rated?|from|between)\b[^\n.\d]{{0,20}}"
        rf"(?:0\s*(?:-|–|—|\bto\b)\s*\d+|1\s*(?:-|–|—|\bto\b)\s*{ends})",
        re.IGNORECASE,
    )


def _score_only(match: re.Match[str]) -> Verdict | None:
    """Return the score of a match, None if its reason has another number."""
    verdict = _score_verdict(match)
    others = {_value(number) for number in _ANOTHER.findall(reason_in(match))}
    return verdict if others <= {verdict.value} else None


def _score_verdict(match: re.Match[str]) -> Verdict:
    word = match["word"]
    return Verdict(
        _value(word),
        match.start("word"),
        word,
        final=bool(match.groupdict().get("final")),
    )


def _value(number: str) -> float:
    return _WORDS.get(number.lower()) or float(number)


def read_score(choice: Choice, *, scale: int) -> float | None:
    """Return a judge's score from 1 to `scale`, or None without an unambiguous score.

    Where the server tells the alternatives to the score's token, the score is the expectation
    over the scores among them, Σ s·P(s) / Σ P(s), and otherwise the number itself.
    """
    reply = reply_of(choice)
    verdict = None if reply is None else stated_score(reply, scale=scale)
    values = {str(score): float(score) for score in range(1, scale + 1)}
    return None if verdict is None else _expectation(choice, verdict, values)


def read_preference(choice: Choice) -> float | None:
    """Return the probability that the first answer is better, or None without a clear verdict.

    The verdict is A, B, or C for a tie; where the server tells the alternatives to that token it
    is their expectation, otherwise 1, 0 or ½.
    """
    reply = reply_of(choice)
    verdict = None if reply is None else stated_preference(reply)
    return None if verdict is None else _expectation(choice, verdict, PREFERENCES)


def _expectation(choice: Choice, verdict: Verdict, values: Mapping[str, float]) -> float:
    """Return the mean value over the alternatives of the verdict's token."""
    odds: dict[str, float] = {}
    for token, logprob in _alternatives(choice, verdict).items():
        word = token.strip()
        if word in values:
            odds[word] = odds.get(word, 0.0) + math.exp(logprob)
    total = math.fsum(odds.values())
    if not total:
        return verdict.value
    return math.fsum(values[word] * mass for word, mass in odds.items()) / total


def _alternatives(choice: Choice, verdict: Verdict) -> dict[str, float]:
    """Return the log-probabilities of the alternatives of the verdict's token, if known."""
    start = "".join(token.token for token in choice.tokens).find(choice.content)
    position = start + verdict.start
    if start < 0 or not verdict.plain:
        return {}
    end = 0
    for token in choice.tokens:
        end += len(token.token)
        if end > position:
            if token.token.strip() != verdict.word or not token.top_logprobs:
                return {}
            told = {other.token: other.logprob for other in token.top_logprobs}
            return {token.token: token.logprob, **told}
    return {}
