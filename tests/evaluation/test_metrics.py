import json
from pathlib import Path

import pytest

from bonbon.errors import ConfigError
from bonbon.evaluation.metrics import read_metrics


def test_numbers_come_back_as_written(run_directory: Path) -> None:
    written = json.loads((run_directory / "metrics.json").read_text())
    metrics = read_metrics(run_directory)
    assert metrics["methods"]["bonbon"]["win_rate"] == written["methods"]["bonbon"]["win_rate"]
    assert list(metrics["methods"]["bonbon"]["kl_ci"]) == written["methods"]["bonbon"]["kl_ci"]
    assert metrics["theory"]["tie_corrected"]["kl"] == written["theory"]["tie_corrected"]["kl"]


def test_a_run_without_metrics_is_told_to_evaluate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.json does not exist: evaluate the run"):
        read_metrics(tmp_path)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"schema": 1,')
    with pytest.raises(ConfigError, match=r"metrics\.json cannot be read: the file: Invalid JSON"):
        read_metrics(tmp_path)


def test_a_missing_number_is_named(own_run_directory: Path) -> None:
    path = own_run_directory / "metrics.json"
    written = json.loads(path.read_text())
    del written["methods"]["bonbon"]["kl"]
    path.write_text(json.dumps(written))
    with pytest.raises(ConfigError, match=r"methods\.bonbon\.kl: Field required"):
        read_metrics(own_run_directory)


@pytest.mark.parametrize("method", ["base", "bonbon"])
def test_what_the_report_is_about_must_be_there(own_run_directory: Path, method: str) -> None:
    path = own_run_directory / "metrics.json"
    written = json.loads(path.read_text())
    del written["methods"][method]
    path.write_text(json.dumps(written))
    with pytest.raises(ConfigError, match=f"no method '{method}'"):
        read_metrics(own_run_directory)
