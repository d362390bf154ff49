"""Reports of a run: the page, the terminal table and the model card."""
