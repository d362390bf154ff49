"""Comparison of training methods on the same candidates and held-out prompts."""
