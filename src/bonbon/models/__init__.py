"""Policies: loading them, scoring token ids under them, and a toy policy with known numbers."""
