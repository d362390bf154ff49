"""Writes the JSON schemas of the result files; run `python docs/schemas/generate.py`."""

import json
from pathlib import Path

from bonbon.comparison.schema import COMPARISON_FILE, ComparisonResult
from bonbon.evaluation.metrics import METRICS_FILE, Metrics

SCHEMAS = {METRICS_FILE: Metrics, COMPARISON_FILE: ComparisonResult}


def schema_text(file: str) -> str:
    """Return the JSON schema of a file of results."""
    schema = SCHEMAS[file].model_json_schema(mode="serialization")
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for file in SCHEMAS:
        (Path(__file__).parent / file).write_text(schema_text(file), encoding="utf-8")
