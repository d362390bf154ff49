"""How methods are compared on the held-out prompts."""

from pydantic import Field

from bonbon.config import Config


class EvaluationConfig(Config):
    """How much is drawn per held-out prompt."""

    base_samples: int = Field(default=16, ge=2, le=2_000_000)
    """Answers of the base per prompt; more than n, so that best-of-n has an opponent left. A
    recipe with a larger n draws 2n unless it says how many."""
    policy_samples: int = Field(default=8, ge=1, le=1_000_000)
    """Answers of the trained model per prompt, each on its own: it answers once."""
    num_resamples: int = Field(default=2000, ge=100, le=1_000_000)
    """Bootstrap resamples of the prompts behind every interval."""
    groups_per_batch: int = Field(default=4, ge=1, le=100_000)
    """Prompts per forward pass when measuring the KL."""
