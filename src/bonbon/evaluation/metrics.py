"""The schema of `metrics.json`, which holds every number of a run."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from bonbon.base_config import AnyPath, as_path
from bonbon.data.atomic_file import replace_text
from bonbon.errors import ConfigError
from bonbon.theory.estimators import Interval

BASE = "base"
TRAINED = "bonbon"
METRICS_FILE = "metrics.json"
REPORT_FILE = "report.html"
"""The report on the metrics."""
FRONTIER_FILE = "frontier.svg"
"""The report's first figure."""


class Result(BaseModel):
    """The base of every model of results: frozen, no unknown keys, nothing converted."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class WinRateAndKL(Result):
    """What a method gains and what it costs: the two axes of every comparison."""

    win_rate: Interval
    """Win rate against one answer of the base to the same prompt; ties count one half."""
    kl: Interval
    """KL(method ‖ base) in nats."""


class MethodMetrics(WinRateAndKL):
    """One method on the held-out prompts; intervals are 95 % over prompts."""

    mean_reward: Interval
    """Mean reward of its answers."""
    mean_length: float
    """Mean length of its answers, in tokens."""
    cut_share: float
    """Share of its answers that were cut at the length limit."""
    num_prompts: int
    """Prompts behind the intervals; they are the independent unit."""
    samples_per_prompt: int
    """Answers per prompt that the numbers rest on."""


class Point(Result):
    """A win rate against the base and a KL from it in nats, without intervals."""

    win_rate: float
    """Win rate against the base."""
    kl: float
    """KL from the base in nats."""


class RunTheory(Point):
    """Win rate and KL of the tilt in theory, and those of best-of-n with the ties of this reward.

    Ties lower both numbers, so training should be compared with the latter.
    """

    tie_corrected: WinRateAndKL
    """Best-of-n with the ties of this reward."""


class TrainingSettings(Result):
    """The settings that a model was trained with, defaults resolved."""

    learning_rate: float
    """Peak learning rate."""
    epochs: float
    """Passes over the training examples."""
    tilt: str
    """What the model was trained towards."""
    num_prompts: int | None
    """Prompts that the recipe trains on; null where pairs came from a file."""
    alpha: float | None = None
    """Weight of the SFT term; null where the objective has none."""
    beta: float | None = None
    """Strength of the KL penalty; null where the objective has none."""


def _has_both_methods(methods: dict[str, MethodMetrics]) -> dict[str, MethodMetrics]:
    for method in (BASE, TRAINED):
        if method not in methods:
            raise ValueError(f"there is no method '{method}'")
    return methods


class Metrics(Result):
    """Everything in `metrics.json`."""

    schema_version: Literal[2] = 2
    """Version of this layout."""
    name: str
    """Name of the run."""
    policy: str
    """Model that was trained."""
    reward: str
    """Reward that answers were scored with."""
    objective: str
    """Training objective."""
    tilt: str
    """What the trained model is compared with, such as `best-of-8`."""
    n: int
    """Candidates per training prompt."""
    temperature: float
    """Sampling temperature of every method."""
    seed: int
    """Seed of the run."""
    theory: RunTheory
    """Win rate and KL of the tilt."""
    training: TrainingSettings | None = None
    """Settings in force; null in metrics of early versions."""
    num_held_out: int | None = None
    """Prompts that were held out, including those that could not be compared; null in metrics of
    early versions."""
    no_score: dict[str, int] = {}
    """Candidates of each set that got no score; they are in no ranking and no mean."""
    unanswered: dict[str, int] = {}
    """Prompts of each set that a server gave no answer to; they are in no stage."""
    methods: Annotated[dict[str, MethodMetrics], AfterValidator(_has_both_methods)]
    """Every method by name; `base` is the policy before training, `bonbon` the trained model."""
    timing: dict[str, float]
    """Seconds and amount of work of each stage."""
    versions: dict[str, str]
    """Versions of Python and of the packages that the numbers depend on."""


def read_metrics(run_directory: AnyPath) -> Metrics:
    """Read and check a run's `metrics.json`; files of schema version 1 are converted.

    Raises:
        ConfigError: the file is missing, or does not have the layout above.
    """
    path = as_path(run_directory) / METRICS_FILE
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: evaluate the run before asking for its report")
    return read_result(
        path, Metrics, advice="delete it and evaluate the run again", upgrade=_from_version_1
    )


def write_result(path: Path, result: Result) -> None:
    """Write a result as JSON."""
    replace_text(path, result_json(result) + "\n")


def result_json(result: Result) -> str:
    """Return a result as JSON text."""
    return json.dumps(result.model_dump(mode="json"), indent=1, allow_nan=False)


Document = TypeVar("Document", bound=Result)


def read_result(
    path: Path,
    schema: type[Document],
    *,
    advice: str,
    upgrade: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None,
) -> Document:
    """Read and check a file of results.

    Args:
        path: an existing file.
        schema: its model, with a field `schema_version`.
        advice: what to do about a file that cannot be read.
        upgrade: converts a document of another version, which keeps its version if it cannot.

    Raises:
        ConfigError: the file is damaged, of another version, or does not have this layout.
    """
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: it is not JSON ({error}); {advice}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is damaged: expected an object; {advice}")
    expected = schema.model_fields["schema_version"].default
    if upgrade is not None and document.get("schema_version") != expected:
        document = upgrade(document)
    version = document.get("schema_version", document.get("schema"))
    if version != expected:
        raise ConfigError(
            f"{path} has schema version {version!r}, and this version of bonbon reads {expected}; "
            f"{advice}"
        )
    try:
        return schema.model_validate_json(json.dumps(document))
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "the file"
        message = problem["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{path} cannot be read: {key}: {message}; {advice}") from None


def _from_version_1(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a document of version 1, where the ends of `kl` stood beside it as `kl_ci`."""
    if document.get("schema") != 1:
        return document

    def converted(item: object) -> object:
        if not isinstance(item, dict):
            return item
        row: dict[str, Any] = {key: converted(value) for key, value in item.items()}
        for key in [key for key in row if key.endswith("_ci")]:
            low, high = row.pop(key)
            estimate = key.removesuffix("_ci")
            row[estimate] = {"value": row[estimate], "low": low, "high": high}
        return row

    try:
        changed = {key: converted(document[key]) for key in ("theory", "methods")}
    except (KeyError, TypeError, ValueError):  # not the layout of version 1 either
        return document
    rest = {key: value for key, value in document.items() if key != "schema"}
    return {**rest, **changed, "schema_version": Metrics.model_fields["schema_version"].default}
