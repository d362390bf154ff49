"""What a run cost: time and work by stage."""

from dataclasses import dataclass

from bonbon.report.metrics import Metrics

_UNITS = ("tokens", "completions")


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage; `amount` of `unit` was worked through, or None where nothing was counted."""

    stage: str
    seconds: float
    amount: int | None = None
    unit: str = ""

    @property
    def time(self) -> str:
        """Duration as people say it."""
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{minutes} min {seconds} s" if minutes else f"{self.seconds:.1f} s"

    @property
    def work(self) -> str:
        """Amount with its rate, or nothing."""
        if self.amount is None:
            return ""
        rate = f", {self.amount / self.seconds:,.0f} per second" if self.seconds > 0 else ""
        return f"{self.amount:,} {self.unit}{rate}"


def stage_costs(metrics: Metrics) -> list[StageCost]:
    """Read `<stage>_seconds` and, where there is one, the `<stage>ed_<unit>` beside it."""
    timing, suffix = metrics["timing"], "_seconds"
    stages = [key.removesuffix(suffix) for key in timing if key.endswith(suffix)]
    return [_stage_cost(timing, stage, timing[stage + suffix]) for stage in stages]


def _stage_cost(timing: dict[str, float], stage: str, seconds: float) -> StageCost:
    for unit in _UNITS:
        key = f"{stage.removesuffix('e')}ed_{unit}"
        if key in timing:
            return StageCost(stage, seconds, int(timing[key]), unit)
    return StageCost(stage, seconds)
