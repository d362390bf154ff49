"""Weights from a checkpoint: every one that the model has, and none that it leaves out.

transformers draws at random what a checkpoint lacks, and drops what the model has no place for.
Either way another model answers than the one that was meant, so both are refused here.
"""

import logging
from collections.abc import Collection, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import find_adapter_config_file  # pyright: ignore[reportPrivateImportUsage]

from bonbon.data.prompt_rows import parse_json
from bonbon.errors import ConfigError, MissingExtraError
from bonbon.models.rotary import use_per_row_tables

CLASSIFIER_HEADS = {"score", "classifier", "classification_head", "qa_outputs"}
"""What transformers calls the outputs of models that give no text."""

BUFFERS = ("inv_freq", "masked_bias", "position_ids", "causal_mask")
"""Tables that older checkpoints carry, and models compute."""

NO_FOLDER = "not-an-adapter"
"""A folder without an adapter: transformers is to leave adapters to `load_weights`."""

NAMED = 3
"""Weights that a line names."""

_log = logging.getLogger(__name__)


def load_weights(
    auto_class: Any,  # noqa: ANN401 - transformers' own have no common type
    source: str,
    *,
    new_head: bool = False,
    revision: str | None = None,
    **options: Any,  # noqa: ANN401
) -> PreTrainedModel:
    """Load a model, adapters included, if its checkpoint holds exactly the model's weights.

    Args:
        auto_class: such as `AutoModelForCausalLM`.
        source: hub name or directory of a model, or of adapters on one.
        new_head: draw the head at random, and leave another one out: it is to be trained.
        revision: of the source, on the hub.
        options: go on to `from_pretrained`.

    Raises:
        MissingExtraError: there are adapters, but no peft.
        ValueError: the weights are others than the model's; the line names them.
    """
    base, its_revision = base_of(source, revision)
    model, report = auto_class.from_pretrained(
        base,
        revision=its_revision,
        ignore_mismatched_sizes=True,
        output_loading_info=True,
        adapter_kwargs={"subfolder": NO_FOLDER},
        **options,
    )
    _check(model, report, new_head=new_head)
    _untie_what_differs(model)
    use_per_row_tables(model)
    if _adapter_file(source, revision) is not None:
        _add_adapters(model, source, revision, dtype=options.get("dtype"))
    return model


def base_of(source: str, revision: str | None) -> tuple[str, str | None]:
    """Return where the whole model of adapters is, and its revision; any other source as it is.

    Raises:
        MissingExtraError: there are adapters, but no peft.
    """
    adapter = _adapter_file(source, revision)
    if adapter is None:
        return source, revision
    if find_spec("peft") is None:
        raise MissingExtraError(
            f"{source} holds adapters, which need peft, and that is not installed; run "
            "`pip install 'bonbon-align[lora]'`"
        )
    if (Path(source) / "config.json").is_file():
        return source, revision
    settings = adapter_settings(Path(adapter))
    return settings["base_model_name_or_path"], settings.get("revision")


def adapter_settings(file: Path) -> dict[str, Any]:
    """Read the configuration of adapters, which names the model that they belong to.

    Raises:
        ConfigError: it is not JSON, or names no model.
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
        left_out=report.unexpected_keys,
    )


def _check(model: PreTrainedModel, report: dict[str, Any], *, new_head: bool) -> None:
    """Refuse what would make another model; say what is left out that belongs to another task."""

    def matters(key: str) -> bool:
        return not (new_head and _of_head(model, key))

    missing = list(filter(matters, report["missing_keys"]))
    others = {key for key in report["unexpected_keys"] if not _is_table(model, key)}
    left_out = {
        key
        for key in others
        if missing
        or _of_model(model, key)
        or (not new_head and key.split(".")[0] in CLASSIFIER_HEADS)
    }
    _refuse_unfit(
        f"its weights and {type(model).__name__}",
        missing=missing,
        mismatched=[one for one in report["mismatched_keys"] if matters(one[0])],
        left_out=left_out,
    )
    if others and not new_head:
        _log.warning(
            "%s answers without a part of its checkpoint that is for other uses: %s.",
            type(model).__name__,
            _some(others),
        )


def _refuse_unfit(
    both: str,
    *,
    missing: Iterable[str],
    mismatched: Collection[tuple[str, Sequence[int], Sequence[int]]],
    left_out: Collection[str],
) -> None:
    """Refuse weights that are not the model's.

    Raises:
        ValueError: there are some; the line names them.
    """
    shapes = [f"{key} {list(got)} for {list(wanted)}" for key, got, wanted in mismatched]
    faults = [
        f"{word} {_some(names)}"
        for word, names in (
            ("missing:", list(missing)),
            ("of another shape:", shapes),
            ("without a place:", left_out),
        )
        if names
    ]
    if faults:
        raise ValueError(f"{both} do not fit together ({'; '.join(faults)})")


def _of_head(model: PreTrainedModel, key: str) -> bool:
    """Return whether a weight comes after what was pretrained; BERT's pooler does."""
    return not key.startswith(f"{model.base_model_prefix}.") or ".pooler." in key


def _of_model(model: PreTrainedModel, key: str) -> bool:
    """Return whether a weight without a place lies inside of a part that the model has.

    There it took part in what the checkpoint computes: a bias, a norm, a layer too many. Beside
    those parts lie other heads and towers.
    """
    return any(not isinstance(module, PreTrainedModel) for module in _around(model, key))


def _is_table(model: PreTrainedModel, key: str) -> bool:
    """Return whether a key without a place is a table that today's model computes."""
    if key.endswith(BUFFERS):
        return True
    # GPT-J and its like called their causal mask the bias of the attention as a whole.
    *parents, last = key.split(".")
    around = _around(model, key)
    return last == "bias" and len(around) == len(parents) and not [*around[-1].parameters(False)]


def _around(model: PreTrainedModel, key: str) -> list[nn.Module]:
    """Return the modules that a weight of that name lies in, as far as the model has them."""
    modules = dict(model.named_modules())
    parents = key.split(".")[:-1]
    names = [".".join(parents[:depth]) for depth in range(1, len(parents) + 1)]
    return [modules[name] for name in names if name in modules]


def mark_untied(model: PreTrainedModel) -> None:
    """Let the config of a model say that its head and its embeddings are not the same weights."""
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _untie_what_differs(model: PreTrainedModel) -> None:
    """Let the config say that the head has weights of its own where the checkpoint has them.

    transformers keeps the two apart when it loads them, but would tie them at the next occasion.
    """
    untied = set(model.get_expanded_tied_weights_keys(all_submodels=True)) - set(
        model.all_tied_weights_keys
    )
    if not untied:
        return
    mark_untied(model)
    _log.warning(
        "%s has weights of its own for %s, where its config says tie_word_embeddings: they are "
        "used as they are, and saved that way.",
        type(model).__name__,
        _some(untied),
    )


def _some(names: Collection[str]) -> str:
    """Name a few."""
    first = sorted(names)[:NAMED]
    others = len(names) - len(first)
    return ", ".join(first) + (f" and {others} more" if others else "")
