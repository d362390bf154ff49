"""The model that is written is the one that was trained, or it is not put in place."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.checkpoints import plain_logprob
from transformers import GenerationConfig

from bonbon.errors import TrainingError
from bonbon.models.packed.layout import PromptGroup
from bonbon.models.policy import DType, PolicyConfig, load_policy
from bonbon.training import saved_model
from bonbon.training.config import LoraSettings
from bonbon.training.lora import add_adapters, inner_model
from bonbon.training.saved_model import SavedAs, save_model

Checkpoint = Callable[[str], Path]

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings=True"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`"),
]

GROUPS = [
    PromptGroup((1, 40, 41, 42, 2), ((50, 51, 52, 53, 2), (60, 61, 2), (70, 71, 72, 73))),
    PromptGroup((1, 80, 2), ((90, 91, 92), (93, 94, 95, 96, 97, 2))),
]

HEAD, EMBEDDINGS, BOTH = (
    {"r": 4, "target_modules": ("q_proj", *names)}
    for names in (("lm_head",), ("embed_tokens",), ("lm_head", "embed_tokens"))
)


def logprobs(model: Any) -> list[float]:  # noqa: ANN401
    return [
        plain_logprob(model, group.prompt, tokens)
        for group in GROUPS
        for tokens in group.completions
    ]


def trained(model: Any, lora: dict[str, Any] | None) -> Any:  # noqa: ANN401
    """Move what would be trained as far as training may."""
    settings = None if lora is None else LoraSettings.model_validate(lora)
    moved = cast("Any", add_adapters(model, settings, seed=0))
    torch.manual_seed(1)
    for weight in moved.parameters():
        if weight.requires_grad:
            weight.data.add_(0.05 * torch.randn_like(weight))
    return moved


def save(base: Path, place: Path, lora: dict[str, Any] | None, dtype: DType = "float32") -> Any:  # noqa: ANN401
    """Train in float32, save, and return the log-probabilities before."""
    config = PolicyConfig(model=str(base), dtype=dtype, device="cpu")
    policy = load_policy(config, dtype="float32")
    model = trained(policy.model, lora)
    before = logprobs(inner_model(model))
    settings = None if lora is None else LoraSettings.model_validate(lora)
    how = SavedAs(config, settings, GenerationConfig())
    save_model(model, policy, place, how, groups=GROUPS)
    return before


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("lora", [{"r": 4}, HEAD, EMBEDDINGS, BOTH])
@pytest.mark.parametrize("name", ["tied", "chatml"])
def test_adapters_are_saved_as_they_were_trained(
    name: str, lora: dict[str, Any], merge: bool, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    place = tmp_path / "model"
    before = save(checkpoint(name), place, {**lora, "merge": merge})
    saved = load_policy(PolicyConfig(model=str(place), dtype="float32", device="cpu"))
    assert logprobs(saved.model) == pytest.approx(before, abs=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("lora", [None, {"r": 4}, HEAD])
def test_rounding_to_the_saved_precision_is_no_fault(
    lora: dict[str, Any] | None, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    before = save(checkpoint("tied"), tmp_path / "model", lora, "bfloat16")
    config = PolicyConfig(model=str(tmp_path / "model"), dtype="float32", device="cpu")
    assert logprobs(load_policy(config).model) == pytest.approx(before, abs=0.5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merge_that_makes_another_model_does_not_replace_a_good_one(
    dtype: DType, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter of a tied head, merged, would become one of the embeddings too."""
    place = tmp_path / "model"
    save(checkpoint("tied"), place, None)
    good = (place / "model.safetensors").read_bytes()
    monkeypatch.setattr(saved_model, "untie_adapted", lambda model: None)
    with pytest.raises(TrainingError, match=r"merged and rounded, .* differ by .* nats per token"):
        save(checkpoint("tied"), place, HEAD, dtype)
    assert (place / "model.safetensors").read_bytes() == good
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_written_is_read_back(
    dtype: DType, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One matrix of the file is another than in memory."""
    load = load_policy

    def damaged(*args: Any, **settings: Any) -> Any:  # noqa: ANN401
        policy = load(*args, **settings)
        policy.model.get_parameter("model.layers.1.mlp.up_proj.weight").data.mul_(1.1)
        return policy

    monkeypatch.setattr(saved_model, "load_policy", damaged)
    with pytest.raises(TrainingError, match="read back, its log-probabilities"):
        save(checkpoint("tied"), tmp_path / "model", None, dtype)
    assert not list(tmp_path.iterdir())


def test_weights_beyond_the_saved_precision_are_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="differ by nan nats per token"):
        save(checkpoint("overflow"), tmp_path / "model", None, "float16")


def test_adapters_name_the_revision_of_their_base(checkpoint: Checkpoint, tmp_path: Path) -> None:
    config = PolicyConfig(
        model=str(checkpoint("chatml")), revision="v2", dtype="float32", device="cpu"
    )
    policy = load_policy(config)
    lora = LoraSettings(r=4, merge=False)
    model = trained(policy.model, {"r": 4})
    how = SavedAs(config, lora, GenerationConfig())
    save_model(model, policy, tmp_path / "model", how, groups=GROUPS)
    assert '"revision": "v2"' in (tmp_path / "model" / "adapter_config.json").read_text()
