"""What became of a trained model: its win rate and its KL read together, against its goal."""

from dataclasses import dataclass, replace
from enum import Enum, auto

from bonbon.evaluation.metrics import Interval
from bonbon.theory.optimal import OptimalTilt

_MAX_KL = 33.0  # beyond, 1 − W is below the precision of a float


def highest_win_rate(kl: float) -> float:
    """Return the bound for any KL in nats; an estimate at or below 0 gets the base's one half."""
    return OptimalTilt.from_kl(min(kl, _MAX_KL)).win_rate if kl > 0 else 0.5


STILL = 0.01
"""Nats below which a model has not moved; a tenth of the goal's, where that is less."""

SHORT, OVER, FAR = 0.5, 2.0, 4.0
"""How many times the goal's KL is short of it, over it, and far from it."""

DIVERGING = 3.0
"""Nats that are not far, however near the goal is."""

TIED = 0.02
"""Share of the goal's KL that ties have to leave for there to be something to learn."""

SURE = 10
"""Prompts from which on intervals are wide enough to contradict each other."""

_ROUNDING = 0.01
"""By how much a win rate may seem to exceed what its KL allows."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a diagnosis rests on; intervals are 95 % over prompts, KL is in nats.

    Attributes:
        goal: what the model is held against, such as `best-of-8`.
        goal_win_rate: the goal's, measured where it could be; below one half it aims down.
        goal_win_rate_ci: its interval, of width zero where it is theory's.
        goal_kl: the goal's, on a reward without ties.
        goal_kl_with_ties: the same with the ties of this reward, which leave less to move for.
        aimed: training aimed at the goal, and was not led by a β of its own.
    """

    win_rate: float
    win_rate_ci: Interval
    kl: float
    kl_ci: Interval
    num_prompts: int
    goal: str
    goal_win_rate: float
    goal_win_rate_ci: Interval
    goal_kl: float
    goal_kl_with_ties: float
    aimed: bool = True

    @property
    def aims_down(self) -> bool:
        """Whether the goal is to win less, as worst-of-n does."""
        return self.goal_win_rate < 0.5

    def turned(self) -> "Measured":
        """Return the same with the base and the model in each other's place."""
        return replace(
            self,
            win_rate=1 - self.win_rate,
            win_rate_ci=_turned(self.win_rate_ci),
            goal_win_rate=1 - self.goal_win_rate,
            goal_win_rate_ci=_turned(self.goal_win_rate_ci),
        )


class Diagnosis(Enum):
    """What became of a trained model."""

    IMPOSSIBLE = auto()
    """It wins more, or less, than any policy so near its base can."""
    NOTHING_TO_LEARN = auto()
    """The rewards tie so often that the goal is all but the base."""
    UNMOVED = auto()
    """It is still its base."""
    TOO_FEW_PROMPTS = auto()
    """It may have reached the goal or gained nothing: the intervals allow both."""
    WORSE = auto()
    """It wins less often than its base."""
    UNFINISHED = auto()
    """It has moved a little of the way, and gains nothing yet."""
    NO_GAIN = auto()
    """It has moved as far as the goal, and gains nothing."""
    DIVERGED = auto()
    """It has moved many times as far as the goal, and gains nothing."""
    ON_THE_WAY = auto()
    """It beats its base after a little of the way."""
    BELOW = auto()
    """It beats its base, but less often than the goal does, at about the goal's KL."""
    OVERSHOT = auto()
    """It beats its base, but has moved much farther than the goal."""
    REACHED = auto()
    """It wins as often as the goal, not much farther from its base."""


class _Won(Enum):
    """Where the win rate's interval lies."""

    LESS = "below one half"
    EVEN = "around one half, below the goal's"
    OPEN = "around one half and the goal's, or there is none"
    MORE = "above one half, below the goal's"
    GOAL = "above one half, reaching the goal's"


class _Moved(Enum):
    """Where the KL's interval lies."""

    STILL = "at zero"
    SHORT = "below half of the goal's"
    NEAR = "around the goal's"
    OVER = "above twice the goal's"
    FAR = "above four times the goal's"


_D = Diagnosis
_TABLE: dict[_Moved, tuple[Diagnosis, ...]] = {
    # in the order of _Won: less, even, open, more, goal
    _Moved.STILL: (_D.UNMOVED, _D.UNMOVED, _D.UNMOVED, _D.UNMOVED, _D.UNMOVED),
    _Moved.SHORT: (_D.WORSE, _D.UNFINISHED, _D.TOO_FEW_PROMPTS, _D.ON_THE_WAY, _D.REACHED),
    _Moved.NEAR: (_D.WORSE, _D.NO_GAIN, _D.TOO_FEW_PROMPTS, _D.BELOW, _D.REACHED),
    _Moved.OVER: (_D.WORSE, _D.NO_GAIN, _D.TOO_FEW_PROMPTS, _D.OVERSHOT, _D.OVERSHOT),
    _Moved.FAR: (_D.DIVERGED, _D.DIVERGED, _D.DIVERGED, _D.OVERSHOT, _D.OVERSHOT),
}


def diagnose(measured: Measured) -> Diagnosis:
    """Name the case that win rate, KL, their intervals and the goal make together."""
    if measured.aims_down:
        return diagnose(measured.turned())
    moved, (low, high) = _moved(measured), measured.win_rate_ci
    most = highest_win_rate(measured.kl_ci[1]) + _ROUNDING
    if measured.num_prompts >= SURE and (low > most or high < 1 - most):
        return Diagnosis.IMPOSSIBLE
    if moved is not _Moved.FAR and measured.goal_kl_with_ties <= TIED * measured.goal_kl:
        return Diagnosis.NOTHING_TO_LEARN
    return _TABLE[moved][[*_Won].index(_won(measured))]


def _won(measured: Measured) -> _Won:
    low, high = measured.win_rate_ci
    reaches = high >= measured.goal_win_rate_ci[0]
    if measured.num_prompts < 2 or (low <= 0.5 <= high and reaches):
        return _Won.OPEN
    if low > 0.5:
        return _Won.GOAL if reaches else _Won.MORE
    return _Won.LESS if high < 0.5 else _Won.EVEN


def _moved(measured: Measured) -> _Moved:
    (low, high), goal = measured.kl_ci, measured.goal_kl
    if high < min(STILL, goal / 10):
        return _Moved.STILL
    if low > max(FAR * goal, DIVERGING):
        return _Moved.FAR
    if low > OVER * goal:
        return _Moved.OVER
    return _Moved.SHORT if high < SHORT * measured.goal_kl_with_ties else _Moved.NEAR


def _turned(interval: Interval) -> Interval:
    return 1 - interval[1], 1 - interval[0]
