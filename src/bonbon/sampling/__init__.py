"""Drawing n completions per prompt: the engines and the records they share."""
