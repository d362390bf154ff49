"""The command line: one file per verb, no logic; heavy imports wait until a verb runs."""
