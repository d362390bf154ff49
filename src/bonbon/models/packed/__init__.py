"""Packed forward passes: sequences without padding, and their log-probabilities."""
