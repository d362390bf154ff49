"""What a run found, told three ways: a page, a terminal table and a model card."""
