"""Rounds of sampling and training, and the directories of their models."""

from dataclasses import dataclass
from pathlib import Path

from bonbon.evaluation.metrics import FRONTIER_FILE, METRICS_FILE, REPORT_FILE
from bonbon.models.policy import Policy, PolicyConfig, load_policy
from bonbon.pipeline.evaluate import KL_FILE
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.stage import recorded_settings
from bonbon.recipe import Recipe
from bonbon.training.callbacks import TENSORBOARD
from bonbon.training.references import REFERENCE_FILE

ROUNDS = "rounds"
"""The folder of the rounds but the last; a number names what is the same in any number of them."""

IN_PLACE = "last-round"
"""The record of which round's model is the run's."""

TRAINED = ("model", "training.jsonl", TENSORBOARD)
"""What training makes."""

REPORTS = (METRICS_FILE, KL_FILE, REPORT_FILE, FRONTIER_FILE)
"""What is said of the run's model."""


@dataclass(frozen=True)
class Round:
    """One round: the policy that it trains has drawn its candidates.

    Attributes:
        number: 1 is trained on the base's candidates.
        policy: what is trained.
        directory: gets the checkpoints and the log.
        model_directory: gets the model.
        is_last: its model is the run's.
    """

    number: int
    policy: PolicyConfig
    directory: Path
    model_directory: Path
    is_last: bool

    @property
    def stage_name(self) -> str:
        """The training stage."""
        return self.set_name

    @property
    def set_name(self) -> str:
        """The set of candidates."""
        return "train" if self.number == 1 else f"train-{self.number}"


def rounds_of(run_directory: RunDirectory) -> list[Round]:
    """Return the rounds of a run; the last one's model is the run's."""
    recipe, count = run_directory.recipe, run_directory.recipe.rounds.count
    policy, rounds = recipe.policy, list[Round]()
    for number in range(1, count + 1):
        last = number == count
        directory = run_directory.path if last else _folder(run_directory, number)
        rounds.append(Round(number, policy, directory, directory / "model", last))
        policy = recipe.policy.saved_in(directory / "model")
    return rounds


def stays_on_goal(run_directory: RunDirectory, round_: Round) -> bool:
    """Return whether a round's goal tilts the base although another policy draws."""
    return round_.number > 1 and run_directory.recipe.rounds.kind == "on-policy"


def load_trainable(recipe: Recipe, policy: PolicyConfig) -> Policy:
    """Load what is trained: weights that move in float32, under adapters as the policy has them."""
    training = recipe.training
    lora = training.lora
    four_bit = lora is not None and lora.four_bit
    keeps = lora is not None and (training.precision == "bfloat16" or four_bit)
    return load_policy(policy, dtype=None if keeps else "float32", four_bit=four_bit)


def is_in_place(run_directory: RunDirectory, round_: Round) -> bool:
    """Return whether what lies where a round keeps its model is that round's."""
    return not round_.is_last or _in_place(run_directory) == round_.number


def put_in_place(run_directory: RunDirectory, last: Round) -> None:
    """Move the model of the last round to the top of the run directory.

    If the recipe had another number of rounds before, another round's model is there: it moves to
    the folder of its round, and the last round's model comes from its folder. So no round is
    trained twice, and none is taken for another. After a kill the next call finishes the moves.
    """
    present = _in_place(run_directory)
    if present != last.number:
        _record(run_directory, present)  # before folders change, which it may be known by
        kept = run_directory.set_aside(REPORTS)
        if kept is not None:
            run_directory.console.say(f"  The report on round {present} is kept in {kept}.")
        if present:
            _move(run_directory.path, _folder(run_directory, present))
        _record(run_directory, 0)
        _move(_folder(run_directory, last.number), run_directory.path)
    _record(run_directory, last.number)


def _in_place(run_directory: RunDirectory) -> int:
    """Return the number of the round with its model at the top of the run directory, or 0."""
    recorded = recorded_settings(run_directory.path, IN_PLACE)
    # A run that has not come to training, or is older than the record, has all others in folders.
    return recorded.get("round", 1 + len(list((run_directory.path / ROUNDS).glob("*"))))


def _record(run_directory: RunDirectory, number: int) -> None:
    settings = {"round": number}
    if recorded_settings(run_directory.path, IN_PLACE) != settings:
        run_directory.stage(IN_PLACE, settings).finish()


def _folder(run_directory: RunDirectory, number: int) -> Path:
    return run_directory.path / ROUNDS / str(number)


def _move(source: Path, target: Path) -> None:
    for name in (*TRAINED, "checkpoints", REFERENCE_FILE):
        if (source / name).exists():
            target.mkdir(parents=True, exist_ok=True)
            (source / name).rename(target / name)
