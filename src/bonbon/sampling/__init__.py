"""Sampling n completions per prompt: the engines, and the interface that they share."""
