"""A run: its stages, and the directory that records which of them are finished."""
