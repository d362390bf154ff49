"""`bonbon run`: the whole job on a recipe."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from bonbon.cli.options import Fresh, Out, Overrides, RecipeFile, RunDirectory, path_at_home
from bonbon.console import shown


def run(
    recipe: RecipeFile, out: Out = None, override: Overrides = None, fresh: Fresh = False
) -> None:
    """Sample, score, train, evaluate and report, as the recipe says; run again to resume."""
    from bonbon.cli.session import run_recipe

    run_recipe(recipe, out, override or [], fresh=fresh)


def sample(
    recipe: RecipeFile, out: Out = None, override: Overrides = None, fresh: Fresh = False
) -> None:
    """Draw n completions of every training prompt and store them."""
    from bonbon.cli.session import run_stage

    run_stage(recipe, out, override or [], lambda run: run.sample(), fresh=fresh)


def train(recipe: RecipeFile, out: Out = None, override: Overrides = None) -> None:
    """Train on the scored completions; may be launched in several processes by accelerate."""
    from bonbon.cli.session import run_stage

    run_stage(recipe, out, override or [], lambda run: run.train(), together=True)


def evaluate(recipe: RecipeFile, out: Out = None, override: Overrides = None) -> None:
    """Compare base, best-of-n and the trained model on held-out prompts."""
    from bonbon.cli.session import run_stage

    run_stage(recipe, out, override or [], lambda run: run.evaluate())


def report(directory: RunDirectory) -> None:
    """Write the report of an evaluated run, and its model's card, again."""
    from bonbon.pipeline.report import report_run

    typer.echo(shown(str(report_run(directory))))


def score(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe in YAML; with --also, a run directory does too.",
            callback=path_at_home,
        ),
    ],
    out: Out = None,
    override: Overrides = None,
    also: Annotated[
        str | None,
        typer.Option(
            "--also",
            metavar="REWARD",
            help="Add this reward's scores beside the recipe's, and leave the run as it is: one "
            "word as in a recipe, YAML, or a YAML file.",
        ),
    ] = None,
) -> None:
    """Score the stored completions with the recipe's reward, or with one more."""
    from bonbon.cli.session import add_reward, run_stage

    if also is None:
        run_stage(recipe, out, override or [], lambda run: run.score())
    else:
        add_reward(recipe, out, override or [], also)


FAST = (
    "name=quickstart-fast",
    "prompts.num_train=64",
    "prompts.num_eval=24",
    "evaluation.base_samples=10",
    "evaluation.policy_samples=4",
)


def quickstart(
    out: Out = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="The same steps on less data: a look, not a result.")
    ] = False,
    override: Overrides = None,
    fresh: Fresh = False,
) -> None:
    """Teach SmolLM2-135M to answer warmly: the whole job, on a CPU, in minutes."""
    from bonbon.cli.session import run_recipe

    overrides = [*(FAST if fast else ()), *(override or ())]
    with as_file(files("bonbon") / "recipes" / "quickstart.yaml") as recipe:
        run_recipe(recipe, out, overrides, fresh=fresh)
