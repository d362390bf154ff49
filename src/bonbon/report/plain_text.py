"""Text of users and models, made safe to show: nothing in it moves a cursor or hides a word."""

import json
import re

_ACTIVE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys: control characters other than tab and newline, and turns of direction."""


def shown(text: str) -> str:
    r"""Return a text with what a terminal would obey written out, as `\x1b`."""
    return _ACTIVE.sub(_written_out, text.replace("\r\n", "\n"))


def shown_json(document: object, *, plain: bool = False) -> str:
    """Return a document as JSON that is safe to show, and still the same document.

    Args:
        document: what to show.
        plain: write out all that is not ASCII.
    """
    text = json.dumps(document, ensure_ascii=plain, indent=2)
    return _ACTIVE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
