"""The forms in which a judge states beyond doubt which of two answers is better."""

import re

from bonbon.rewards.reply import ASIDE, IS, LEAD, Reply, Verdict, reason, reason_in, the_one

PREFERENCES = {"A": 1.0, "B": 0.0, "C": 0.5}
"""P(the first answer is better) by verdict; C is a tie."""

_KEY = r"(?i:verdict|winner|better|preferred|preference|choice)"
_TIE = r"(?i:(?:tie|draw)\b)"
_MARKED = [
    re.compile(form)
    for form in (
        rf"\[\[\s*(?P<word>[ABC]|{_TIE})\s*\]\]",
        rf"\\boxed\{{\s*(?P<word>[ABC]|{_TIE})\s*\}}",
        rf"<(?P<tag>{_KEY}|answer)>\s*(?P<word>[ABC]|{_TIE})\s*</(?P=tag)>",
        rf"\"{_KEY}\"\s*:\s*\"(?P<word>[ABC]|{_TIE})\"",
        r"\[\[\s*(?P<word>[AB])\s*(?P<sign>>+|<+|=)\s*(?P<other>[AB])\s*\]\]",
    )
]
"""Forms that nothing but a verdict has."""

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
_DENIED = re.compile(
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
    """Return the P(A is better) that a reply states, or None if that can be doubted."""
    marked = [
        verdict
        for form in _MARKED
        for found in form.finditer(reply.marked)
        if (verdict := _verdict(found)) is not None
    ]
    if marked:
        return the_one(marked)
    verdict = the_one(reply.without(_DENIED).verdicts(_NAMED, _BARE, _only))
    claims = [_verdict(found) for form in _CLAIMS for found in form.finditer(reply.text)]
    if verdict is None or any(claim and claim.value != verdict.value for claim in claims):
        return None
    return verdict


def _only(found: re.Match[str]) -> Verdict | None:
    """Return what a form states, None where its reason compares the answers again."""
    return None if _CONTRARY.search(reason_in(found)) else _verdict(found)


def _verdict(found: re.Match[str]) -> Verdict | None:
    """Return what a form says, None if it compares an answer with itself."""
    groups = found.groupdict()
    word, other, sign = found["word"], groups.get("other"), groups.get("sign")
    if other == word:
        return None
    turned = bool(groups.get("worse")) or "<" in (sign or "")
    value = 0.5 if sign == "=" else PREFERENCES.get(word, 0.5)
    return Verdict(
        1 - value if turned else value,
        found.start("word"),
        word,
        plain=not turned and not sign,
        final=bool(groups.get("final")),
    )
