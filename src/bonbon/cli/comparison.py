"""What `bonbon compare` does once the heavy imports are worth it."""

from collections.abc import Sequence
from pathlib import Path

from bonbon.cli.plain_words import in_plain_words
from bonbon.cli.session import MEND_MEMORY
from bonbon.errors import ConfigError
from bonbon.pipeline.comparison import compare
from bonbon.pipeline.comparison_recipe import load_comparison
from bonbon.pipeline.processes import refuse_several
from bonbon.report.comparison_terminal import comparison_lines, comparison_table
from bonbon.report.narrator import Narrator


def run_comparison(
    path: Path,
    out: Path | None,
    overrides: Sequence[str],
    *,
    fast: bool,
    seeds: int,
    only: Sequence[str],
) -> None:
    """Run a comparison and end with its table and the report's path."""
    refuse_several("a comparison")
    recipe = load_comparison(path, overrides, fast=fast)
    unknown = [name for name in only if name not in recipe.methods]
    if unknown:
        raise ConfigError(
            f"--only {unknown[0]}: expected one of the recipe's methods, "
            f"{', '.join(recipe.methods)}"
        )
    name = f"{recipe.base.name}-fast" if fast else recipe.base.name
    directory = out or Path("runs") / name
    narrator = Narrator()
    with in_plain_words(when_memory_is_full=MEND_MEMORY):
        found = compare(recipe, directory, narrator=narrator, seeds=seeds, only=only)
    narrator.say("")
    narrator.show(comparison_table(found))
    for line in comparison_lines(found):
        narrator.say(line)
    narrator.say(f"\nReport: {directory / 'comparison.html'}")
