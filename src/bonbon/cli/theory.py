"""`bonbon theory`: win rate, KL and cost of best-of-n, and the gap to the optimum."""

import json
from pathlib import Path
from typing import Annotated

import typer

from bonbon.cli.options import path_at_home
from bonbon.errors import ConfigError
from bonbon.theory.plan import Plan, plan_for_kl, plan_for_n, plan_for_win_rate

TABLE = (2, 4, 8, 16, 32, 64)
FIGURE_TYPES = (".svg", ".png", ".pdf")

_ASSUMED = "Assumes continuous rewards (ties lower both) and independent draws."
_DESCRIPTION = "Win rate against KL of best-of-n and of the optimal policy, and their gap against n"


def theory(
    n: Annotated[
        float | None, typer.Option("--n", help="Number of completions per prompt, 1 or more.")
    ] = None,
    win_rate: Annotated[
        float | None,
        typer.Option(help="Win rate to reach against one sample of the base, in [0.5, 1)."),
    ] = None,
    kl: Annotated[float | None, typer.Option(help="KL divergence from the base, in nats.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Write a figure of best-of-n and the optimum: .svg, .png or .pdf.",
            callback=path_at_home,
        ),
    ] = None,
) -> None:
    """Print win rate, KL and cost of best-of-n, and the gap to the optimum.

    Give one of --n, --win-rate and --kl, or none of them for a table.
    The numbers assume continuous rewards and independent samples.
    """
    plans = _plans(n, win_rate, kl)
    if figure is not None:
        _draw(figure, plans if len(plans) == 1 else [])
    asked = len(plans) == 1
    if as_json:
        typer.echo(json.dumps(plans[0].as_dict() if asked else [p.as_dict() for p in plans]))
    else:
        typer.echo(_sheet(plans[0]) if asked else _table(plans))
    if figure is not None:
        typer.echo(f"figure: {figure}", err=True)


def _plans(n: float | None, win_rate: float | None, kl: float | None) -> list[Plan]:
    asked = {"--n": n, "--win-rate": win_rate, "--kl": kl}
    given = {option: value for option, value in asked.items() if value is not None}
    if len(given) > 1:
        raise ConfigError(f"give one of --n, --win-rate and --kl, got {' and '.join(given)}")
    makers = {"--n": plan_for_n, "--win-rate": plan_for_win_rate, "--kl": plan_for_kl}
    try:
        return [makers[o](v) for o, v in given.items()] or [plan_for_n(size) for size in TABLE]
    except ValueError as error:
        raise ConfigError(f"{next(iter(given))}: {error}") from error


def _sheet(plan: Plan) -> str:
    forward = f"{plan.num_draws} completions per prompt; 1 once distilled into the model"
    rows = [
        ("win rate against one draw", f"{plan.win_rate:.6f}"),
        ("KL from the base", f"{plan.kl:.6f} nats"),
        ("cost", forward),
        *_whole_rows(plan),
        ("highest win rate at this KL", f"{plan.optimal_win_rate:.6f}{_above(plan)}"),
        ("lowest KL at this win rate", f"{plan.optimal_kl:.6f} nats"),
    ]
    width = max(len(label) for label, _ in rows)
    lines = [f"  {label:<{width}}  {value}" for label, value in rows]
    return "\n".join([f"best-of-{plan.n:.6g}", *lines, _ASSUMED])


def _above(plan: Plan) -> str:
    return f" ({plan.gap:.6f} above, at c = {plan.optimal_c:.6g})"


def _whole_rows(plan: Plan) -> list[tuple[str, str]]:
    if abs(plan.num_draws / plan.n - 1) < 1e-9:
        return []
    reached = f"win rate {plan.win_rate_at_num_draws:.6f}, KL {plan.kl_at_num_draws:.6f} nats"
    return [(f"with {plan.num_draws} draws, the next whole number", reached)]


def _table(plans: list[Plan]) -> str:
    head = f"{'n':>4}  {'win rate':>9}  {'KL, nats':>9}  {'optimum':>9}  {'gap':>9}"
    rows = [
        f"{p.num_draws:>4}  {p.win_rate:>9.6f}  {p.kl:>9.6f}  {p.optimal_win_rate:>9.6f}"
        f"  {p.gap:>9.6f}"
        for p in plans
    ]
    return "\n".join([head, *rows, _ASSUMED])


def _draw(path: Path, asked: list[Plan]) -> None:
    if path.suffix not in FIGURE_TYPES:
        raise ConfigError(f"--figure must end in {', '.join(FIGURE_TYPES)}, got {path.name!r}")
    if not path.parent.is_dir():
        raise ConfigError(f"--figure needs a folder that exists, got {str(path.parent)!r}")
    # Matplotlib is slow to import, and only a figure needs it.
    from bonbon.report.figures.style import svg_document
    from bonbon.report.figures.theory import theory_figure

    figure = theory_figure(asked)
    if path.suffix == ".svg":
        path.write_text(svg_document(figure, description=_DESCRIPTION), encoding="utf-8")
    else:
        figure.savefig(path, dpi=144)
