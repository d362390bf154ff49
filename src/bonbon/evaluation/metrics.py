"""The layout of `metrics.json`, which the report reads and never computes."""

from pathlib import Path
from typing import NotRequired

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic cannot read typing.TypedDict before 3.12

from bonbon.errors import ConfigError

Interval = tuple[float, float]

BASE = "base"
TRAINED = "bonbon"


class TieCorrected(TypedDict):
    """What the tilt gives on this reward, whose ties lower both numbers; KL in nats."""

    win_rate: float
    win_rate_ci: Interval
    kl: float
    kl_ci: Interval


class Theory(TypedDict):
    """What the tilt gives on a reward without ties; KL in nats."""

    win_rate: float
    kl: float
    tie_corrected: TieCorrected


class MethodMetrics(TypedDict):
    """One method on the held-out prompts; every `_ci` is a 95 % interval over prompts.

    `mean_length` counts tokens, `cut_share` is the share of answers cut at the length limit.
    """

    win_rate: float
    win_rate_ci: Interval
    kl: float
    kl_ci: Interval
    mean_reward: float
    mean_reward_ci: Interval
    mean_length: float
    cut_share: float
    num_prompts: int
    samples_per_prompt: int


class Training(TypedDict):
    """The settings that training went by, defaults worked out.

    `alpha` and `beta` are there where the objective has them; `num_prompts` are those of the
    recipe to train on, None where pairs came from a file.
    """

    learning_rate: float
    epochs: float
    tilt: str
    num_prompts: int | None
    alpha: NotRequired[float]
    beta: NotRequired[float]


class Metrics(TypedDict):
    """All of `metrics.json`.

    `num_held_out` counts the prompts that were held out, also those that the model could not be
    compared on. `no_score` counts the candidates of each set that the reward gave no score, and
    which are therefore in no ranking and no mean. `unanswered` counts the prompts of each set that
    a server gave no answer to, and which are therefore in no stage.
    """

    schema: int
    name: str
    policy: str
    reward: str
    objective: str
    tilt: str
    n: int
    temperature: float
    seed: int
    theory: Theory
    # Metrics of earlier versions do without these four.
    training: NotRequired[Training]
    num_held_out: NotRequired[int]
    no_score: NotRequired[dict[str, int]]
    unanswered: NotRequired[dict[str, int]]
    methods: dict[str, MethodMetrics]
    timing: dict[str, float]
    versions: dict[str, str]


def read_metrics(run_directory: Path) -> Metrics:
    """Read and check a run's `metrics.json`.

    Raises:
        ConfigError: the file is missing or does not have the layout above.
    """
    path = run_directory / "metrics.json"
    if not path.is_file():
        raise ConfigError(f"{path} does not exist: evaluate the run before asking for its report")
    try:
        metrics = TypeAdapter(Metrics).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ConfigError(f"{path} cannot be read: {_first_problem(error)}") from None
    for method in (BASE, TRAINED):
        if method not in metrics["methods"]:
            raise ConfigError(f"{path} has no method '{method}': evaluate the run again")
    return metrics


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"])) or "the file"
    return f"{place}: {problem['msg']}"
