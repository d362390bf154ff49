"""Rewards: what turns a prompt and a completion into a score; one class per file."""
