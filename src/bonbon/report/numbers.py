"""Numbers as sentences and tables write them."""

from bonbon.report.metrics import Interval

MAX_PLAIN_NATS = 10


def percent(share: float) -> str:
    """Write a share as whole percent, the sign kept on the number's line."""
    return f"{100 * share:.0f}\N{NO-BREAK SPACE}%"


def percent_with_interval(share: float, interval: Interval) -> str:
    """Write a share and its 95 % interval as whole percent."""
    low, high = (f"{100 * end:.0f}" for end in interval)
    return f"{percent(share)} [{low},\N{NO-BREAK SPACE}{high}]"


def nats(kl: float) -> str:
    """Write a KL with as many digits as matter."""
    digits = 2 if abs(kl) < MAX_PLAIN_NATS else 0
    return f"{round(kl, digits) + 0.0:.{digits}f} nats"


def setting(value: float | int) -> str:
    """Write a setting's value: 0.05, 3, 2e-5."""
    if value == 0 or 0.001 <= abs(value) < 1e6:
        return f"{value:g}"
    mantissa, exponent = f"{value:e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def with_interval(value: float, interval: Interval, *, digits: int = 3) -> str:
    """Write an estimate and its 95 % interval."""
    return f"{round(value, digits) + 0.0:.{digits}f} {interval_text(interval, digits=digits)}"


def interval_text(interval: Interval, *, digits: int = 3) -> str:
    """Write an interval in brackets, kept on one line."""
    low, high = (round(end, digits) + 0.0 for end in interval)
    return f"[{low:.{digits}f},\N{NO-BREAK SPACE}{high:.{digits}f}]"
