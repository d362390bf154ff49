"""Reward models: sequence classifiers and models that compare pairs."""
