"""What each stage depends on: when one of these settings changes, the stage is redone."""

import ast
import hashlib
import importlib.util
import inspect
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

from bonbon.config import at_home
from bonbon.data.preferences import held_out_pairs, load_preferences
from bonbon.data.store import CandidateKey
from bonbon.errors import ConfigError
from bonbon.models.chat_template import TEMPLATE_FILE, read_template
from bonbon.models.policy import PolicyConfig, policy_name
from bonbon.pipeline.stage import DIGEST, digest
from bonbon.recipe import Recipe
from bonbon.records import Prompt
from bonbon.rewards.config import (
    LengthPenaltyConfig,
    RewardConfig,
    SumConfig,
    columns_read,
    rewards_within,
)
from bonbon.rewards.function import FunctionConfig, load_function
from bonbon.rewards.models.classifier import ClassifierConfig
from bonbon.rewards.models.pairwise import PairwiseConfig
from bonbon.rewards.tfidf import TfidfConfig
from bonbon.sampling.config import OpenaiEngine, RayEngine, SamplingConfig, TransformersEngine
from bonbon.training.config import TrainingConfig

IMPORTERS = {"import_module", "__import__"}
"""Functions whose first argument, if it is written out, names a module."""


@dataclass
class Source:
    """What a function's results depend on, but for data that it reads.

    Attributes:
        files: of local modules, by name: those that no package manager installed.
        packages: that these import, with their versions.
    """

    files: dict[str, Path] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)


def source_of(function: str) -> Source:
    """Return the source of the function that `package.module:function` names.

    The modules that it imports are found by reading, not by running them.

    Raises:
        ConfigError: there is no such function.
    """
    loaded = load_function(function)
    named = function.partition(":")[0]
    defined = getattr(inspect.unwrap(loaded), "__module__", None)
    source = Source()
    for module in dict.fromkeys([named, defined or named]):
        file = _file_of(module)
        if file is not None and _is_installed(module, file):
            source.files[module] = file  # which says more than the package's version
        elif file is not None:
            _add(source, module, file)
    return source


def _add(source: Source, module: str, file: Path) -> None:
    """Add a module and, by what is written in it, all that it imports."""
    if module in source.files:
        return
    source.files[module] = file
    for name in _imported(module, file):
        found = _file_of(name)
        if found is not None and _is_installed(name, found):
            source.packages |= _distributions(name.partition(".")[0])
        elif found is not None:
            _add(source, name, found)


def _imported(module: str, file: Path) -> Iterator[str]:
    """Return the names of modules that a file may import, parents before what is in them."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # an extension module
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        for name in _named_in(node, package):
            parts = name.split(".")
            yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _named_in(node: ast.AST, package: str) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [each.name for each in names]
        case ast.ImportFrom(module=module, names=names, level=level):
            above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
            base = ".".join([*above, *([module] if module else [])])
            return [f"{base}.{each.name}" for each in names] if base else []
        case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
            called = function.attr if isinstance(function, ast.Attribute) else None
            called = function.id if isinstance(function, ast.Name) else called
            return [name] if called in IMPORTERS else []
        case _:
            return []


def _find(module: str) -> ModuleSpec | None:
    """Find a module without running it or the packages that it is in."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    name = top
    for part in rest:
        places = None if spec is None else spec.submodule_search_locations
        if places is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(places))
    return spec


def _file_of(module: str) -> Path | None:
    """Return the file of a module, None if it has none or is Python's own."""
    spec = _find(module)
    file = None if spec is None or spec.origin is None else Path(spec.origin)
    if file is None or not file.is_file():
        return None
    standard = _is_in(file, "stdlib", "platstdlib") and not _is_in(file, "purelib", "platlib")
    return None if standard else file


def _is_installed(module: str, file: Path) -> bool:
    return module.partition(".")[0] == "bonbon" or _is_in(file, "purelib", "platlib")


def _is_in(file: Path, *kinds: str) -> bool:
    """Return whether a file is in one of the places that `sysconfig` knows by these names."""
    places = sysconfig.get_paths()
    return any(file.resolve().is_relative_to(Path(places[kind]).resolve()) for kind in kinds)


def _distributions(package: str) -> dict[str, str]:
    return {name: version(name) for name in sorted(set(_owners().get(package, [])))}


@cache
def _owners() -> dict[str, list[str]]:
    return dict(packages_distributions())


BLOCK = 4096
NUM_BLOCKS = 256


def fingerprint_model(model: str) -> str | None:
    """Return the fingerprint of a local model directory, None for a hub name.

    Of large files evenly spaced blocks are read, so that it takes no time: training moves
    nearly every weight, and no change of weights leaves all of a million bytes as they were.
    """
    directory = at_home(Path(model))
    if not directory.is_dir():
        return None
    total = hashlib.blake2b(digest_size=8)
    for path in model_files(directory):
        total.update(f"{path.name}/{path.stat().st_size}/".encode())
        total.update(_blocks(path))
    return DIGEST + total.hexdigest()


def model_files(directory: Path) -> list[Path]:
    """Return the files of a model directory, none if there is no such directory.

    The model card is text for people, and writing it again changes no model.
    """
    found = sorted(directory.iterdir()) if directory.is_dir() else []
    return [path for path in found if path.is_file() and path.suffix != ".md"]


def fingerprint_source(source: Source) -> str | None:
    """Return the fingerprint of the local modules of a function, None if there are none.

    A module that stands alone is known by its content, wherever it is and whatever its name.
    """
    contents = {module: file.read_bytes() for module, file in source.files.items()}
    if not contents:
        return None
    total = hashlib.blake2b(digest_size=8)
    for module, content in sorted(contents.items()):
        if len(contents) > 1:
            total.update(f"{module}/{len(content)}/".encode())
        total.update(content)
    return DIGEST + total.hexdigest()


def _blocks(path: Path) -> bytes:
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= BLOCK * NUM_BLOCKS:
            return stream.read()
        parts: list[bytes] = []
        for index in range(NUM_BLOCKS):
            stream.seek(index * (size - BLOCK) // (NUM_BLOCKS - 1))
            parts.append(stream.read(BLOCK))
        return b"".join(parts)


# These change what a user sees, where a stage runs or how fast, not what comes out of it.
TRAINING_BOOKKEEPING = {
    "report_to",
    "checkpoints",
    "evaluations",
    "gradient_checkpointing",
    "tokens_per_forward",
    "preferences",
}
REWARD_BOOKKEEPING = {
    "device",
    "batch_tokens",
    "trust_remote_code",
    "api_key_env",
    "base_url",
    "concurrency",
    "max_retries",
    "timeout_s",
}


def sampling_settings(
    recipe: Recipe, set_name: str, prompts: Sequence[Prompt], num_samples: int
) -> dict[str, Any]:
    """Return what the base's draws depend on."""
    return {
        "set": set_name,
        "seed": recipe.seed,
        "policy": _policy(recipe.policy),
        "prompts": prompts_digest(prompts),
        "n": num_samples,
        "temperature": recipe.sampling.temperature,
        "max_new_tokens": recipe.sampling.max_new_tokens,
        **_drawing(recipe.sampling),
    }


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Return a fingerprint of what is asked."""
    return digest([[prompt.id, prompt.content] for prompt in prompts])


def scoring_settings(
    recipe: Recipe, *samplings: Mapping[str, Any], prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Return what rewards of a set depend on, or of several sets that are scored as one.

    Args:
        recipe: its reward is used.
        samplings: what the draws of each set depend on.
        prompts: that the draws answer; the reward may read columns of them.

    Raises:
        ConfigError: the reward's function cannot be found.
    """
    draws = [dict(sampling) for sampling in samplings]
    candidates = digest(draws if len(draws) > 1 else draws[0])
    names = columns_read(recipe.reward, prompts)
    columns = [[one.id, *(repr(one.columns.get(name)) for name in names)] for one in prompts]
    return {
        "reward": _reward(recipe.reward),
        "candidates": candidates,
        **({"columns": digest([names, columns])} if names else {}),
    }


def training_settings(
    recipe: Recipe,
    sampling: Mapping[str, Any],
    scores: Mapping[CandidateKey, float | None],
) -> dict[str, Any]:
    """Return what the trained model depends on: of rewards, the numbers alone."""
    return {
        "tilt": recipe.goal.name,
        "seed": recipe.seed,
        "training": _training(recipe.training),
        "candidates": digest(dict(sampling)),
        "rewards": digest(sorted([*key, score] for key, score in scores.items())),
    }


def preference_training_settings(
    recipe: Recipe, file: Path, prompts: Sequence[Prompt]
) -> dict[str, Any]:
    """Return what a model depends on that is trained on a user's own pairs.

    Args:
        recipe: how it is trained.
        file: the pairs.
        prompts: of the run; pairs of the held-out ones are left out.

    Raises:
        ConfigError: there is no such file, or a row of it cannot be used.
        PromptError: the file cannot be read.
    """
    if not file.is_file():
        raise ConfigError(
            f"training.preferences: {file} is not a file; expected JSONL or Parquet with prompt, "
            "chosen and rejected"
        )
    held_out = held_out_pairs(load_preferences(file), prompts)
    return {
        **({"pairs left out": digest(sorted(held_out))} if held_out else {}),
        "seed": recipe.seed,
        "training": _training(recipe.training),
        "policy": _policy(recipe.policy),
        "temperature": recipe.sampling.temperature,
        "pairs": DIGEST + hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest(),
    }


def _training(config: TrainingConfig) -> dict[str, Any]:
    """Return what a training run depends on; when it is measured matters if it may stop early."""
    bookkeeping = TRAINING_BOOKKEEPING - ({"evaluations"} if config.early_stopping else set())
    return config.model_dump(mode="json", exclude=bookkeeping)


def round_sampling_settings(
    recipe: Recipe, base_sampling: Mapping[str, Any], *, set_name: str, model: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a later round's draws depend on: the model of the round before included."""
    return {
        **base_sampling,
        **_drawing(trained_sampling(recipe.sampling)),
        "set": set_name,
        "model": digest(dict(model)),
        "rounds": recipe.rounds.kind,
    }


def trained_sampling_settings(
    recipe: Recipe, base_sampling: Mapping[str, Any], training: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what the trained model's draws depend on."""
    return {
        **base_sampling,
        **_drawing(trained_sampling(recipe.sampling)),
        "set": "eval-bonbon",
        "n": recipe.evaluation.policy_samples,
        "model": digest(dict(training)),
    }


def trained_sampling(config: SamplingConfig) -> SamplingConfig:
    """Return how the trained model is drawn from: a server has the base only."""
    if isinstance(config.engine, OpenaiEngine):
        return config.model_copy(update={"engine": TransformersEngine()})
    return config


def _drawing(config: SamplingConfig) -> dict[str, Any]:
    """Return what makes draws other than the policy's own; where an engine runs does not."""
    engine = config.engine.worker if isinstance(config.engine, RayEngine) else config.engine
    name: dict[str, Any] = {"kind": engine.kind}
    if isinstance(engine, OpenaiEngine):
        name |= {"model": engine.model, "api": engine.api}
    settings = config.model_dump(mode="json", include={"stop", "top_k", "top_p", "logprobs"})
    return {"drawn_by": name, **settings}


def _policy(config: PolicyConfig) -> dict[str, Any]:
    """Name a local directory by what is in it, so that it may move but not change."""
    settings = config.model_dump(mode="json", include={"revision", "dtype", "chat_template"})
    if config.chat_template.endswith(TEMPLATE_FILE):
        settings["chat_template"] = digest(read_template(config.chat_template))
    weights = fingerprint_model(config.model)
    if weights is None:
        return {"model": config.model, **settings}
    return {"model": policy_name(config), "weights": weights, **settings}


def _reward(config: RewardConfig) -> dict[str, Any]:
    """Return what a reward's scores depend on, the rewards it is made of included.

    Raises:
        ConfigError: a function cannot be found.
    """
    inner = rewards_within(config)
    hidden = {*REWARD_BOOKKEEPING, "reward", "parts", "members"}
    settings = {**config.model_dump(mode="json", exclude=hidden), **_outside(config)}
    if isinstance(config, SumConfig):
        settings["weights"] = [part.weight for part in config.parts]
    if not inner:
        return settings
    # By place, so that a change is told by the part's own setting.
    parts = {str(place): _reward(each) for place, each in enumerate(inner, start=1)}
    return {**settings, "parts": parts}


def _outside(config: RewardConfig) -> dict[str, Any]:
    """Return fingerprints of the files that a reward names, and what these are made for."""
    match config:
        case FunctionConfig():
            source = source_of(config.function)
            packages = {"packages": source.packages} if source.packages else {}
            return {"source": fingerprint_source(source), **packages}
        case ClassifierConfig() | PairwiseConfig():
            return {"weights": fingerprint_model(config.model)}
        case TfidfConfig():
            return {"weights": fingerprint_model(str(config.path))}
        case LengthPenaltyConfig() if config.tokenizer is not None:
            return {"tokenizer_files": fingerprint_model(config.tokenizer)}
        case _:
            return {}
