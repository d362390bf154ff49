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
"""The folder of all rounds but the last, by number: round 1 of 2 is also round 1 of 3."""

IN_PLACE = "last-round"
"""The file that records which round's model is the run's."""

TRAINED = ("model", "training.jsonl", TENSORBOARD)
"""Files and folders that training writes."""

REPORTS = (METRICS_FILE, KL_FILE, REPORT_FILE, FRONTIER_FILE)
"""Files that describe the run's model."""


@dataclass(frozen=True)
class Round:
    """A round of sampling and training; the policy that is trained has drawn the candidates.

    Attributes:
        number: 1 is trained on the base's candidates.
        policy: the policy that is trained.
        directory: where the checkpoints and the log are written.
        model_directory: where the model is written.
        is_last: the round's model is the run's model.
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
    """Return whether the goal is a tilt of the base although another policy draws."""
    return round_.number > 1 and run_directory.recipe.rounds.kind == "on-policy"


def load_trainable(recipe: Recipe, policy: PolicyConfig) -> Policy:
    """Load the policy to train: in float32, or under adapters in its own precision."""
    training = recipe.training
    lora = training.lora
    four_bit = lora is not None and lora.four_bit
    keeps = lora is not None and (training.precision == "bfloat16" or four_bit)
    return load_policy(policy, dtype=None if keeps else "float32", four_bit=four_bit)


def is_in_place(run_directory: RunDirectory, round_: Round) -> bool:
    """Return whether the model in a round's model directory is this round's."""
    return not round_.is_last or _in_place(run_directory) == round_.number


def put_in_place(run_directory: RunDirectory, last: Round) -> None:
    """Move the model of the last round to the top of the run directory.

    If the recipe had another number of rounds before, another round's model is there. It moves to
    the folder of its round, and the last round's model moves from its folder to the top. So no
    round is trained twice, or mistaken for another. If the process is killed, the next call
    finishes the moves.
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
    # A run before training, or older than the record, has all other rounds in folders.
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
