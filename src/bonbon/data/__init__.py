"""Prompts in, candidates stored, exports out."""
