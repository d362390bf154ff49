"""The diagnosis of a trained model: its win rate and KL read together, against its goal."""

from dataclasses import dataclass, replace
from enum import Enum, auto

from bonbon.theory.estimators import Interval
from bonbon.theory.optimal import OptimalTilt

_MAX_KL = 33.0  # above it, 1 − W is below the precision of a float


def highest_win_rate(kl: float) -> float:
    """Return the highest win rate that any policy can have at a KL, in nats.

    An estimate of the KL at or below 0 has the base's one half.
    """
    return OptimalTilt.from_kl(min(kl, _MAX_KL)).win_rate if kl > 0 else 0.5


UNMOVED_KL = 0.01
"""A model below this KL, in nats, has not moved; a tenth of the goal's KL, where that is less."""

SHORT, OVER, FAR = 0.5, 2.0, 4.0
"""Multiples of the goal's KL: below the first a model is short of it, above the others over it."""

DIVERGED_KL = 3.0
"""A model below this KL, in nats, has not diverged, however small the goal's KL is."""

TIED = 0.02
"""There is nothing to learn where ties leave less than this share of the goal's KL."""

MIN_PROMPTS = 10
"""Intervals from fewer prompts can have width zero by chance, so they contradict nothing."""

_ROUNDING = 0.01
"""By how much an estimated win rate may exceed what its KL allows."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The numbers that a diagnosis rests on; intervals are 95 % over prompts, KL is in nats.

    Attributes:
        win_rate: the trained model's.
        kl: the trained model's.
        num_prompts: the independent units behind the intervals.
        goal: what the model is compared with, such as `best-of-8`.
        goal_win_rate: the goal's, measured where possible, else from theory with width zero. Below
            one half the goal is to win less.
        goal_kl: the goal's, on a reward without ties.
        goal_kl_with_ties: the goal's with the ties of this reward, which lower it.
        trained_to_goal: whether training aimed at the goal; with a β, the β sets the distance.
    """

    win_rate: Interval
    kl: Interval
    num_prompts: int
    goal: str
    goal_win_rate: Interval
    goal_kl: float
    goal_kl_with_ties: float
    trained_to_goal: bool = True

    @property
    def aims_down(self) -> bool:
        """Whether the goal is to win less, as with worst-of-n."""
        return self.goal_win_rate.value < 0.5

    def mirrored(self) -> "Measured":
        """Return the same numbers with the base and the model exchanged."""
        return replace(
            self,
            win_rate=_complement(self.win_rate),
            goal_win_rate=_complement(self.goal_win_rate),
        )


class Diagnosis(Enum):
    """What training did to a model."""

    IMPOSSIBLE = auto()
    """It wins more often, or less often, than any policy at its KL can."""
    NOTHING_TO_LEARN = auto()
    """The rewards tie so often that the goal is almost the base."""
    UNMOVED = auto()
    """It is still its base."""
    TOO_FEW_PROMPTS = auto()
    """It may have reached the goal or gained nothing: the intervals allow both."""
    WORSE = auto()
    """It wins less often than its base."""
    UNFINISHED = auto()
    """It has moved less than the goal, and gains nothing yet."""
    NO_GAIN = auto()
    """It has moved as far as the goal, and gains nothing."""
    DIVERGED = auto()
    """It has moved many times as far as the goal, and gains nothing."""
    ON_THE_WAY = auto()
    """It beats its base, and has moved less than the goal."""
    BELOW = auto()
    """It beats its base, but less often than the goal does, at about the goal's KL."""
    OVERSHOT = auto()
    """It beats its base, but has moved much farther than the goal."""
    REACHED = auto()
    """It wins as often as the goal, at about the goal's KL or less."""


class _WinRate(Enum):
    """Where the win rate's interval lies."""

    LESS = "below one half"
    EVEN = "around one half, below the goal's"
    OPEN = "around one half and the goal's, or there is none"
    MORE = "above one half, below the goal's"
    GOAL = "above one half, reaching the goal's"


class _KL(Enum):
    """Where the KL's interval lies."""

    ZERO = "at zero"
    SHORT = "below half of the goal's"
    NEAR = "around the goal's"
    OVER = "above twice the goal's"
    FAR = "above four times the goal's"


_D = Diagnosis
_TABLE: dict[_KL, tuple[Diagnosis, ...]] = {
    # in the order of _WinRate: less, even, open, more, goal
    _KL.ZERO: (_D.UNMOVED, _D.UNMOVED, _D.UNMOVED, _D.UNMOVED, _D.UNMOVED),
    _KL.SHORT: (_D.WORSE, _D.UNFINISHED, _D.TOO_FEW_PROMPTS, _D.ON_THE_WAY, _D.REACHED),
    _KL.NEAR: (_D.WORSE, _D.NO_GAIN, _D.TOO_FEW_PROMPTS, _D.BELOW, _D.REACHED),
    _KL.OVER: (_D.WORSE, _D.NO_GAIN, _D.TOO_FEW_PROMPTS, _D.OVERSHOT, _D.OVERSHOT),
    _KL.FAR: (_D.DIVERGED, _D.DIVERGED, _D.DIVERGED, _D.OVERSHOT, _D.OVERSHOT),
}


def diagnose(measured: Measured) -> Diagnosis:
    """Return the case that win rate, KL, their intervals and the goal make together."""
    if measured.aims_down:
        return diagnose(measured.mirrored())
    kl, win_rate = _kl_case(measured), measured.win_rate
    most = highest_win_rate(measured.kl.high) + _ROUNDING
    if measured.num_prompts >= MIN_PROMPTS and (win_rate.low > most or win_rate.high < 1 - most):
        return Diagnosis.IMPOSSIBLE
    if kl is not _KL.FAR and measured.goal_kl_with_ties <= TIED * measured.goal_kl:
        return Diagnosis.NOTHING_TO_LEARN
    return _TABLE[kl][[*_WinRate].index(_win_rate_case(measured))]


def _win_rate_case(measured: Measured) -> _WinRate:
    low, high = measured.win_rate.low, measured.win_rate.high
    reaches = high >= measured.goal_win_rate.low
    if measured.num_prompts < 2 or (low <= 0.5 <= high and reaches):
        return _WinRate.OPEN
    if low > 0.5:
        return _WinRate.GOAL if reaches else _WinRate.MORE
    return _WinRate.LESS if high < 0.5 else _WinRate.EVEN


def _kl_case(measured: Measured) -> _KL:
    kl, goal = measured.kl, measured.goal_kl
    if kl.high < min(UNMOVED_KL, goal / 10):
        return _KL.ZERO
    if kl.low > max(FAR * goal, DIVERGED_KL):
        return _KL.FAR
    if kl.low > OVER * goal:
        return _KL.OVER
    return _KL.SHORT if kl.high < SHORT * measured.goal_kl_with_ties else _KL.NEAR


def _complement(win_rate: Interval) -> Interval:
    return Interval(1 - win_rate.value, 1 - win_rate.high, 1 - win_rate.low)
