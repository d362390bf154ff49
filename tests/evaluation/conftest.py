"""A finished run to read the numbers of, as the report's tests have it."""

from tests.report.conftest import own_run_directory, run_directory

__all__ = ["own_run_directory", "run_directory"]
