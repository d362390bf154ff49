"""Policies: loading them, scoring token ids under them, and one whose distribution is known."""
