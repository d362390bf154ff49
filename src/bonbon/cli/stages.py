"""The verbs of a recipe: run, sample, score, train, evaluate, report, quickstart."""

from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated

import typer

from bonbon.cli.options import Fresh, Out, Overrides, RecipeFile, RunDirectory, path_at_home
from bonbon.console import shown


def run(
    recipe: RecipeFile, out: Out = None, override: Overrides = None, fresh: Fresh = False
) -> None:
    """Sample, score, train, evaluate and report; run again to resume."""
    from bonbon.cli.recipe_commands import run_recipe

    run_recipe(recipe, out, override or [], fresh=fresh)


def sample(
    recipe: RecipeFile, out: Out = None, override: Overrides = None, fresh: Fresh = False
) -> None:
    """Draw n completions of every training prompt and store them."""
    from bonbon.cli.recipe_commands import run_stage

    run_stage("sample", recipe, out, override or [], fresh=fresh)


def train(recipe: RecipeFile, out: Out = None, override: Overrides = None) -> None:
    """Train on the scored completions; works under `accelerate launch`."""
    from bonbon.cli.recipe_commands import run_stage

    run_stage("train", recipe, out, override or [])


def evaluate(recipe: RecipeFile, out: Out = None, override: Overrides = None) -> None:
    """Compare base, best-of-n and the trained model on held-out prompts."""
    from bonbon.cli.recipe_commands import run_stage

    run_stage("evaluate", recipe, out, override or [])


def report(directory: RunDirectory) -> None:
    """Write the report and the model card of an evaluated run again."""
    from bonbon.pipeline.report import report_run

    typer.echo(shown(str(report_run(directory))))


def score(
    recipe: Annotated[
        Path,
        typer.Argument(
            metavar="RECIPE",
            help="Recipe in YAML; with --also, a run directory also works.",
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
            help="Also store the scores of this reward, and change nothing else; give a name as in "
            "a recipe, YAML, or a YAML file.",
        ),
    ] = None,
) -> None:
    """Score the stored completions with the recipe's reward, or with another one."""
    from bonbon.cli.recipe_commands import add_reward, run_stage

    if also is None:
        run_stage("score", recipe, out, override or [])
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
        bool,
        typer.Option("--fast", help="Take the same steps on less data, in less than 4 minutes."),
    ] = False,
    override: Overrides = None,
    fresh: Fresh = False,
) -> None:
    """Run all stages on the bundled model and prompts: SmolLM2-135M learns to answer warmly."""
    from bonbon.cli.recipe_commands import run_recipe

    overrides = [*(FAST if fast else ()), *(override or ())]
    with as_file(files("bonbon") / "recipes" / "quickstart.yaml") as recipe:
        run_recipe(recipe, out, overrides, fresh=fresh)
