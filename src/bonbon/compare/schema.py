"""The layout of `comparison.json`, and its numbers as a table."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from bonbon.data.prompt_rows import parse_json
from bonbon.data.store import plain_cell
from bonbon.errors import ConfigError

COMPARISON_FILE = "comparison.json"
SCHEMA = 5

GOLD = "gold"
"""The score among the extra ones that is the gold reward, not an attribute."""

Comparison = Mapping[str, Any]
"""What `comparison.json` holds; estimates are (value, low, high), intervals 95 % over prompts."""

ESTIMATES = (
    "win_rate",
    "kl",
    "kl_monte_carlo",
    "kl_from_goal",
    "reward",
    "length",
    "length_ratio",
    "cut_share",
    "distinct_2",
    "self_chrf",
)


def read_comparison(directory: Path) -> dict[str, Any]:
    """Read a comparison.

    Raises:
        ConfigError: there is none, or another version of bonbon wrote it.
    """
    path = directory / COMPARISON_FILE
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: run `bonbon compare` first")
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError):
        raise ConfigError(f"{path} is damaged; run `bonbon compare` again to rewrite it") from None
    comparison = cast("dict[str, Any]", found) if isinstance(found, dict) else {}
    if comparison.get("schema") != SCHEMA:
        raise ConfigError(f"{path} is not of schema {SCHEMA}; run `bonbon compare` again")
    return comparison


def as_csv(comparison: Comparison) -> str:
    """Return the table of methods as CSV, an estimate and its two bounds in three columns."""
    rows = comparison["methods"]
    extras = list(next(iter(rows.values()))["extra"])
    names = [*ESTIMATES, *extras]
    header = ["method", "family"]
    header += [f"{plain_cell(name)}{end}" for name in names for end in ("", "_low", "_high")]
    header += ["effective_prompts", "detectable"]
    header += ["bradley_terry", "bradley_terry_low", "bradley_terry_high"]
    header += ["tokens_sampled", "tokens_trained", "train_seconds", "seed", "bonbon_version"]
    duels = comparison["duels"]
    strengths = dict(zip(duels["methods"], duels["strengths"], strict=True))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for method, row in rows.items():
        values = [row[name] for name in ESTIMATES] + [row["extra"].get(name) for name in extras]
        cost = comparison["cost"].get(method, {})
        cells = [cell for value in values for cell in (value or ("", "", ""))]
        paid = ("sampled_tokens", "trained_tokens", "train_seconds")
        writer.writerow(
            [
                plain_cell(method),
                plain_cell(row["family"]),
                *cells,
                row["effective_prompts"],
                row["detectable"],
                *strengths[method],
                *(cost.get(name, "") for name in paid),
                comparison["seed"],
                comparison["versions"]["bonbon"],
            ]
        )
    return stream.getvalue()
