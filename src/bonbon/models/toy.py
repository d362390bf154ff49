"""A language model small enough to know by heart: its distribution can be enumerated.

Tests of statistics compare with its exact numbers instead of with yesterday's output.
"""
