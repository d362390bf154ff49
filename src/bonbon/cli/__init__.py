"""The command line: one file per verb, without logic; heavy imports wait until a verb runs."""
