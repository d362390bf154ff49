"""Sampling and scoring as a Ray job."""
