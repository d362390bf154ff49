"""What a run cost: time and tokens by stage."""

from dataclasses import dataclass

from bonbon.report.metrics import Metrics


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage; `num_tokens` is None where tokens are not what it works on."""

    stage: str
    seconds: float
    num_tokens: int | None

    @property
    def time(self) -> str:
        """Duration as people say it."""
        minutes, seconds = divmod(round(self.seconds), 60)
        return f"{minutes} min {seconds} s" if minutes else f"{self.seconds:.1f} s"

    @property
    def tokens(self) -> str:
        """Tokens with their rate, or nothing."""
        if self.num_tokens is None:
            return ""
        if self.seconds <= 0:
            return f"{self.num_tokens:,}"
        return f"{self.num_tokens:,}, {self.num_tokens / self.seconds:,.0f} per second"


def stage_costs(metrics: Metrics) -> list[StageCost]:
    """Read `<stage>_seconds` and, where there is one, the `<stage>ed_tokens` beside it."""
    timing, suffix = metrics["timing"], "_seconds"
    stages = [key.removesuffix(suffix) for key in timing if key.endswith(suffix)]
    return [StageCost(stage, timing[stage + suffix], _tokens(timing, stage)) for stage in stages]


def _tokens(timing: dict[str, float], stage: str) -> int | None:
    value = timing.get(f"{stage.removesuffix('e')}ed_tokens")
    return None if value is None else int(value)
