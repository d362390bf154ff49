"""Loads weights strictly: the checkpoint must hold exactly the weights of the model.

transformers initialises missing weights at random and drops unexpected ones. Either way the model
is not the one that was trained, so both are refused here.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import find_adapter_config_file  # pyright: ignore[reportPrivateImportUsage]

from bonbon.base_config import at_home
from bonbon.data.prompt_rows import parse_json
from bonbon.errors import BonbonError, ConfigError, MissingExtraError
from bonbon.models.rotary import use_per_row_tables

CLASSIFIER_HEADS = {"score", "classifier", "classification_head", "qa_outputs"}
"""Names that transformers gives to the heads of models that do not generate text."""

BUFFERS = ("inv_freq", "masked_bias", "position_ids", "causal_mask")
"""Tables that older checkpoints store, and that models compute today."""

NO_FOLDER = "not-an-adapter"
"""A subfolder without an adapter, so that transformers leaves adapters to `load_weights`."""

MAX_NAMES = 3
"""Weights that an error message names."""

_log = logging.getLogger(__name__)


def load_weights(
    auto_class: Any,  # noqa: ANN401 - transformers' classes have no common type
    source: str,
    *,
    new_head: bool = False,
    revision: str | None = None,
    **options: Any,  # noqa: ANN401
) -> PreTrainedModel:
    """Load a model, with adapters, if its checkpoint holds exactly the model's weights.

    Args:
        auto_class: such as `AutoModelForCausalLM`.
        source: hub name or directory of a model, or of adapters on one.
        new_head: initialise the head at random, to be trained; a stored head is dropped.
        revision: of the source, on the hub.
        options: passed on to `from_pretrained`.

    Raises:
        MissingExtraError: there are adapters, but peft is not installed.
        ValueError: the weights are not those of the model; the message names them.
    """
    base, base_revision = base_of(source, revision)
    model, report = auto_class.from_pretrained(
        base,
        revision=base_revision,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        adapter_kwargs={"subfolder": NO_FOLDER},
        **options,
    )
    _check(model, report, new_head=new_head)
    _mark_untied_weights(model)
    use_per_row_tables(model)
    if _adapter_file(source, revision) is not None:
        _add_adapters(model, source, revision, dtype=options.get("dtype"))
    return model


def base_of(source: str, revision: str | None) -> tuple[str, str | None]:
    """Return the base model of an adapter, and its revision; any other source as it is.

    Raises:
        MissingExtraError: there are adapters, but peft is not installed.
    """
    adapter = _adapter_file(source, revision)
    if adapter is None:
        return source, revision
    if find_spec("peft") is None:
        raise MissingExtraError(
            f"{source} holds adapters, which need peft, but peft is not installed; run "
            "`pip install 'bonbon-align[lora]'`"
        )
    if (Path(source) / "config.json").is_file():
        return source, revision
    settings = adapter_settings(Path(adapter))
    return settings["base_model_name_or_path"], settings.get("revision")


def model_directory(
    name: str,
    *,
    what: str,
    files: Sequence[str] = ("config.json",),
    others: str = "or a hub name",
    error: type[BonbonError] = ConfigError,
) -> Path | None:
    """Return the directory that a model's name stands for, None for a hub name.

    Args:
        name: as the user gives it.
        what: to call the model in the error.
        files: of which a saved model has at least one.
        others: what the user can give instead, for the error.
        error: to raise.

    Raises:
        BonbonError: it is a directory without a model; `error` says which kind is raised.
    """
    directory = at_home(Path(name))
    if not (name.startswith((".", "/", "~")) or directory.is_dir()):
        return None
    if not any((directory / file).is_file() for file in files):
        raise error(
            f"{what} {name}: no config.json there; expected a directory written by "
            f"save_pretrained, {others}"
        )
    return directory


def adapter_settings(file: Path) -> dict[str, Any]:
    """Read the configuration of adapters, which names their base model.

    Raises:
        ConfigError: it is not JSON, or names no base model.
    """
    try:
        settings = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{file} is damaged: {error}; copy the adapters again") from None
    if not isinstance(settings, dict) or not isinstance(
        cast("dict[str, Any]", settings).get("base_model_name_or_path"), str
    ):
        raise ConfigError(
            f"{file} names no base model; expected base_model_name_or_path, the model that the "
            "adapters were trained on"
        )
    return cast("dict[str, Any]", settings)


def _adapter_file(source: str, revision: str | None) -> str | None:
    return find_adapter_config_file(source, revision=revision)


def _add_adapters(model: Any, source: str, revision: str | None, dtype: object) -> None:  # noqa: ANN401
    report = model.load_adapter(
        source,
        download_kwargs={"revision": revision},
        ignore_mismatched_sizes=True,
        dtype=dtype,
        hf_quantizer=getattr(model, "hf_quantizer", None),
    )
    _refuse_unfit(
        f"its adapters and {type(model).__name__}",
        missing=report.missing_keys,
        mismatched=report.mismatched_keys,
        unexpected=report.unexpected_keys,
    )


def _check(model: PreTrainedModel, report: dict[str, Any], *, new_head: bool) -> None:
    """Refuse weights that would make another model; warn of unused heads of other tasks."""

    def matters(key: str) -> bool:
        return not (new_head and _of_head(model, key))

    missing = list(filter(matters, report["missing_keys"]))
    extra = {key for key in report["unexpected_keys"] if not _is_table(model, key)}
    unexpected = {
        key
        for key in extra
        if missing
        or _of_model(model, key)
        or (not new_head and key.split(".")[0] in CLASSIFIER_HEADS)
    }
    _refuse_unfit(
        f"its weights and {type(model).__name__}",
        missing=missing,
        mismatched=[mismatch for mismatch in report["mismatched_keys"] if matters(mismatch[0])],
        unexpected=unexpected,
    )
    if extra and not new_head:
        _log.warning(
            "%s does not use a part of its checkpoint that belongs to another task: %s.",
            type(model).__name__,
            _some(extra),
        )


def _refuse_unfit(
    what: str,
    *,
    missing: Iterable[str],
    mismatched: Collection[tuple[str, Sequence[int], Sequence[int]]],
    unexpected: Collection[str],
) -> None:
    """Refuse weights that are not the model's.

    Raises:
        ValueError: there are some; the message names them.
    """
    shapes = [f"{key} {list(got)} for {list(wanted)}" for key, got, wanted in mismatched]
    problems = [
        f"{problem}: {_some(names)}"
        for problem, names in (
            ("missing", list(missing)),
            ("of another shape", shapes),
            ("not part of the model", unexpected),
        )
        if names
    ]
    if problems:
        raise ValueError(f"{what} do not match ({'; '.join(problems)})")


def _of_head(model: PreTrainedModel, key: str) -> bool:
    """Return whether a weight belongs to the head, as BERT's pooler does."""
    return not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key


def _of_model(model: PreTrainedModel, key: str) -> bool:
    """Return whether an unexpected weight lies within a module that the model has.

    Such a weight changes what the checkpoint computes: a bias, a norm, another layer. Weights
    beside the model's modules belong to other heads and towers.
    """
    return any(not isinstance(module, PreTrainedModel) for module in _around(model, key))


def _is_table(model: PreTrainedModel, key: str) -> bool:
    """Return whether an unexpected key is a table that the model computes today."""
    if key.endswith(BUFFERS):
        return True
    # GPT-J and similar models stored their causal mask as the attention's bias.
    *parents, last = key.split(".")
    around = _around(model, key)
    return last == "bias" and len(around) == len(parents) and not [*around[-1].parameters(False)]


def _around(model: PreTrainedModel, key: str) -> list[nn.Module]:
    """Return the modules on the path of a weight's name that the model has."""
    modules = dict(model.named_modules())
    parents = key.split(".")[:-1]
    names = [".".join(parents[:depth]) for depth in range(1, len(parents) + 1)]
    return [modules[name] for name in names if name in modules]


def mark_untied(model: PreTrainedModel) -> None:
    """Set a model's config to untied weights of head and embeddings."""
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _mark_untied_weights(model: PreTrainedModel) -> None:
    """Correct a config that says the weights are tied where the checkpoint stores both.

    transformers keeps them apart on loading, but would tie them on the next save or load.
    """
    untied = set(model.get_expanded_tied_weights_keys(all_submodels=True)) - set(
        model.all_tied_weights_keys
    )
    if not untied:
        return
    mark_untied(model)
    _log.warning(
        "The config of %s says tie_word_embeddings, but its checkpoint has separate weights for "
        "%s. The separate weights are used and saved.",
        type(model).__name__,
        _some(untied),
    )


def _some(names: Collection[str]) -> str:
    """Return the first names, and how many more there are."""
    first = sorted(names)[:MAX_NAMES]
    num_more = len(names) - len(first)
    return ", ".join(first) + (f" and {num_more} more" if num_more else "")
