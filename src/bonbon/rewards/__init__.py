"""Rewards: objects that score the completions of prompts."""
