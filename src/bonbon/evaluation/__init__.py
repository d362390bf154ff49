"""Evaluation on held-out prompts: win rate, KL, intervals and `metrics.json`."""
