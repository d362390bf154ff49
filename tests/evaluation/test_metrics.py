import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bonbon.errors import ConfigError
from bonbon.evaluation.metrics import read_metrics, write_result
from bonbon.theory.estimators import Interval


def edited(run_directory: Path, **changes: object) -> None:
    path = run_directory / "metrics.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_numbers_come_back_as_written(run_directory: Path, tmp_path: Path) -> None:
    metrics = read_metrics(run_directory)
    written = json.loads((run_directory / "metrics.json").read_text())
    assert metrics.methods["bonbon"].kl == Interval(**written["methods"]["bonbon"]["kl"])
    write_result(tmp_path / "metrics.json", metrics)
    assert read_metrics(tmp_path) == metrics


def test_results_cannot_be_changed(run_directory: Path) -> None:
    metrics: Any = read_metrics(run_directory)
    with pytest.raises(ValidationError, match="frozen"):
        metrics.tilt = "best-of-9"


def as_version_1(document: dict[str, Any]) -> dict[str, Any]:
    """Write every interval as version 1 did: `kl` with its ends beside it as `kl_ci`."""

    def split(row: dict[str, Any]) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for key, value in row.items():
            if isinstance(value, dict) and value.keys() == {"value", "low", "high"}:
                flat |= {key: value["value"], f"{key}_ci": [value["low"], value["high"]]}
            else:
                flat[key] = split(value) if isinstance(value, dict) else value
        return flat

    version = {"schema": 1}
    return version | {
        key: split(value) if key in {"theory", "methods"} else value
        for key, value in document.items()
        if key != "schema_version"
    }


def test_metrics_of_version_1_still_open(run_directory: Path, tmp_path: Path) -> None:
    document = as_version_1(json.loads((run_directory / "metrics.json").read_text()))
    training = {"learning_rate": 1e-3, "epochs": 2, "tilt": "best-of-8", "num_prompts": 4}
    assert isinstance(document["methods"]["bonbon"]["kl_ci"], list)
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(document | {"training": training | {"alpha": 0.05}}))
    metrics = read_metrics(tmp_path)
    assert metrics.training is not None
    assert (metrics.training.alpha, metrics.training.beta) == (0.05, None)
    assert metrics.model_copy(update={"training": None}) == read_metrics(run_directory)


@pytest.mark.parametrize(
    "schema", [{"schema_version": 7}, {"schema": 1, "methods": {"kl_ci": 3}}, {}]
)
def test_other_versions_are_refused_in_one_line_that_names_them(
    own_run_directory: Path, schema: dict[str, object]
) -> None:
    path = own_run_directory / "metrics.json"
    document = json.loads(path.read_text())
    del document["schema_version"]
    path.write_text(json.dumps(document | schema))
    version = schema.get("schema_version", schema.get("schema"))
    with pytest.raises(
        ConfigError, match=f"schema version {version}, .* reads 2; delete it and evaluate"
    ) as told:
        read_metrics(own_run_directory)
    assert "\n" not in str(told.value)


def test_a_run_without_metrics_is_told_to_evaluate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.json does not exist: evaluate the run"):
        read_metrics(tmp_path)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"schema": 1,')
    with pytest.raises(ConfigError, match=r"metrics\.json is damaged: it is not JSON .* evaluate"):
        read_metrics(tmp_path)


def test_a_missing_number_is_named(own_run_directory: Path) -> None:
    methods = json.loads((own_run_directory / "metrics.json").read_text())["methods"]
    del methods["bonbon"]["kl"]
    edited(own_run_directory, methods=methods)
    with pytest.raises(ConfigError, match=r"methods\.bonbon\.kl: Field required"):
        read_metrics(own_run_directory)


@pytest.mark.parametrize("method", ["base", "bonbon"])
def test_what_the_report_is_about_must_be_there(own_run_directory: Path, method: str) -> None:
    methods = json.loads((own_run_directory / "metrics.json").read_text())["methods"]
    del methods[method]
    edited(own_run_directory, methods=methods)
    with pytest.raises(ConfigError, match=f"no method '{method}'"):
        read_metrics(own_run_directory)
