"""Settings of the evaluation on held-out prompts."""

from pydantic import Field

from bonbon.base_config import Config


class EvaluationConfig(Config):
    """How many answers are drawn per held-out prompt, and how they are evaluated."""

    base_samples: int = Field(default=16, ge=2, le=2_000_000)
    """Answers of the base per prompt. It must be more than n, so that best-of-n has an opponent
    left. A recipe with a larger n draws 2n unless it sets a number."""
    policy_samples: int = Field(default=8, ge=1, le=1_000_000)
    """Answers of the trained model per prompt. They are independent: the model answers once."""
    num_resamples: int = Field(default=2000, ge=100, le=1_000_000)
    """Bootstrap resamples of the prompts for every interval."""
    groups_per_batch: int = Field(default=4, ge=1, le=100_000)
    """Prompts per forward pass when measuring the KL."""
