"""The published JSON schemas describe the files that are written."""

import json
import runpy
from pathlib import Path

import pytest

from bonbon.evaluation.metrics import METRICS_FILE

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
GENERATOR = runpy.run_path(str(SCHEMAS / "generate.py"))


@pytest.mark.parametrize("file", GENERATOR["SCHEMAS"])
def test_the_published_schema_is_up_to_date(file: str) -> None:
    published = (SCHEMAS / file).read_text(encoding="utf-8")
    assert published == GENERATOR["schema_text"](file), "run python docs/schemas/generate.py"


@pytest.mark.parametrize("file", GENERATOR["SCHEMAS"])
def test_every_field_is_described_and_snake_case(file: str) -> None:
    schema = json.loads((SCHEMAS / file).read_text(encoding="utf-8"))
    models = [model for name, model in schema["$defs"].items() if name != "JsonValue"]
    for model in (schema, *models):
        assert model["description"]
        for name, field in model["properties"].items():
            assert name == name.lower().replace("-", "_").replace(" ", "_")
            assert field.get("description") or model["title"] == "Interval"


def test_a_written_file_has_every_required_field(run_directory: Path) -> None:
    written = json.loads((run_directory / METRICS_FILE).read_text())
    schema = json.loads((SCHEMAS / METRICS_FILE).read_text(encoding="utf-8"))
    optional = {"training", "num_held_out", "no_score", "unanswered"}
    assert schema["properties"].keys() - optional == written.keys()
