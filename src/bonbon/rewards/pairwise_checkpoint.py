"""A pairwise reward model read from its checkpoint, with the settings fitted to it."""

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from bonbon.rewards.checkpoint import label_index, longest_input, read_checkpoint, read_weights
from bonbon.rewards.classifier_checkpoint import classifier_name
from bonbon.rewards.pairwise import PairwiseConfig, PairwiseReward


def load_pairwise(config: PairwiseConfig) -> PairwiseReward:
    """Load a pairwise reward model from safetensors.

    Raises:
        ConfigError: it cannot be loaded, has no trained head, or the settings do not fit it.
    """
    tokenizer, model_config = read_pairwise(config)
    model = read_weights(config)
    return PairwiseReward(
        model,
        tokenizer,
        name=classifier_name(config),
        head=label_index(config, config.head, model_config),
        template=config.template,
        aggregate=config.aggregate,
        max_length=longest_input(config, model, tokenizer),
        batch_tokens=config.batch_tokens,
    )


def read_pairwise(config: PairwiseConfig) -> tuple[PreTrainedTokenizerBase, PretrainedConfig]:
    """Read the tokenizer and the model's config, no weights, and check the settings against them.

    Raises:
        ConfigError: they cannot be read, or the settings do not fit them.
    """
    tokenizer, model_config = read_checkpoint(config)
    label_index(config, config.head, model_config)
    return tokenizer, model_config
