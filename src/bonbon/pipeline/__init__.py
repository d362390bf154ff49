"""The whole run: its stages, and the directory in which they find what is done already."""
