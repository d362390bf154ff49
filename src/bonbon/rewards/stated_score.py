"""The forms in which a judge states a score beyond doubt."""

import re

from bonbon.rewards.reply import ASIDE, IS, LEAD, Reply, Verdict, reason, reason_in, the_one

_WORDS = {
    word: float(number)
    for number, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=1
    )
}
_ANY = rf"(?:\d+(?:\.\d+)?|(?:{'|'.join(_WORDS)})\b)"
_NUMBER = rf"(?P<word>{_ANY})(?![\d½¼¾])"
_ANOTHER = re.compile(_ANY, re.IGNORECASE)
_DENIED = re.compile(
    rf",?\s*\(?\b(?:not|rather than|instead of)\s+(?:an?\s+)?{_ANY}(?![\d½¼¾]|\.\d)\)?",
    re.IGNORECASE,
)

_REVISED = re.compile(
    r"\b(?:lower|raise|change|revise|adjust|reduce|increase|drop|downgrade|upgrade)d?\b[^.\n]*"
    rf"\bto\s+(?:an?\s+)?{_ANY}",
    re.IGNORECASE,
)

_KEY = r"(?:(?:final|overall)_)?(?:score|rating)"
_MARKED = [
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"\[\[\s*{_NUMBER}\s*\]\]",
        rf"\\boxed\{{\s*{_NUMBER}\s*\}}",
        rf"<(?P<tag>{_KEY})>\s*{_NUMBER}\s*</(?P=tag)>",
        rf"[\"']{_KEY}[\"']\s*:\s*(?P<quote>[\"']?){_NUMBER}(?P=quote)\s*(?=[,}}\n])",
    )
]
"""Forms that nothing but a verdict has."""

_BEST = re.compile(
    r"[\"'](?:out_?of|max(?:imum)?(?:_(?:score|rating))?|scale)[\"']\s*:\s*[\"']?"
    r"(?P<best>\d+(?:\.\d+)?)\b",
    re.IGNORECASE,
)
"""The best score, where a judge states it beside its own."""

_NAME = r"(?:score|rating|grade|mark|verdict|overall)\b"
_IT = r"(?:it|this|that|(?:the|this)\s+(?:answer|response|reply))"
_A = r"(?:(?:an?|as|at|with)\s+)*(?:(?:score|rating|grade|mark)\s+of\s+)?"


def stated_score(reply: Reply, *, scale: int) -> Verdict | None:
    """Return the score from 1 to `scale` that a reply states, or None if that can be doubted."""
    if any(float(found["best"]) != scale for found in _BEST.finditer(reply.marked)):
        return None
    marked = [_verdict(found) for form in _MARKED for found in form.finditer(reply.marked)]
    if not marked and (_REVISED.search(reply.text) or _other_scale(scale).search(reply.text)):
        return None
    verdict = the_one(marked or _worded(reply, scale))
    return verdict if verdict is not None and 1 <= verdict.value <= scale else None


def _worded(reply: Reply, scale: int) -> list[Verdict]:
    """Return the scores of whole clauses: by itself, after its name, or given by someone."""
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
        .without(_DENIED)
        .verdicts(
            [re.compile(rf"{form}{_NUMBER}{after}", re.IGNORECASE) for form in named],
            re.compile(rf"\s*[(\[]*{_NUMBER}{after}", re.IGNORECASE),
            _only,
        )
    )


def _scale(best: str) -> re.Pattern[str]:
    """Return what the scale looks like where a judge repeats it."""
    return re.compile(
        rf"[(\[]?(?:\b(?:on\s+)?(?:an?|the)\s+scale\s+)?(?:\b(?:from|of|between)\s+)?"
        rf"(?<![\d.,/])(?:1|one)\s*(?:\([^()]*\))?\s*(?:-|–|—|\.\.\.?|\b(?:to|and|through)\b)\s*"
        rf"{best}\s*(?:\([^()]*\)|[)\]])?\s*[,:]?"
        rf"|\bon\s+(?:an?|the)\s+scale\s+of\s+{best}\s*[,:]?",
        re.IGNORECASE,
    )


def _other_scale(scale: int) -> re.Pattern[str]:
    """Return what another scale looks like: a number on it says nothing on this one."""
    ends = rf"(?!{scale}\b)\d+"
    return re.compile(
        r"(?:\bout\s+of|/|\bscale\s+of)\s*(?:10|100)\b"
        rf"|\b(?:scale|score|rating|rated?|from|between)\b[^\n.\d]{{0,20}}"
        rf"(?:0\s*(?:-|–|—|\bto\b)\s*\d+|1\s*(?:-|–|—|\bto\b)\s*{ends})",
        re.IGNORECASE,
    )


def _only(found: re.Match[str]) -> Verdict | None:
    """Return the score that a form states, None where its reason tells another number."""
    verdict = _verdict(found)
    others = {_value(number) for number in _ANOTHER.findall(reason_in(found))}
    return verdict if others <= {verdict.value} else None


def _verdict(found: re.Match[str]) -> Verdict:
    word = found["word"]
    return Verdict(
        _value(word),
        found.start("word"),
        word,
        final=bool(found.groupdict().get("final")),
    )


def _value(number: str) -> float:
    return _WORDS.get(number.lower()) or float(number)
