"""Fitting a reward model to texts that people judged."""
