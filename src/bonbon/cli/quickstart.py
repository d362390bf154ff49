"""`bonbon quickstart`: the main job on what comes with bonbon."""

from importlib.resources import as_file, files
from typing import Annotated

import typer

from bonbon.cli.options import Fresh, Out, Overrides

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
    from bonbon.cli.session import run_recipe  # noqa: PLC0415 - torch loads when a verb runs

    overrides = [*(FAST if fast else ()), *(override or ())]
    with as_file(files("bonbon") / "recipes" / "quickstart.yaml") as recipe:
        run_recipe(recipe, out, overrides, fresh=fresh)
