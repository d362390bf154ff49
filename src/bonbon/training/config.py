"""How the policy is trained."""

from collections.abc import Callable
from typing import Literal

from pydantic import Field, field_validator, model_validator

from bonbon.base_config import Config, Seed, Several, UserPath
from bonbon.training.objectives import DEFAULT_BETA, OBJECTIVES, Objective


class LoraSettings(Config):
    """Low-rank adapters instead of full fine-tuning; needs the extra `lora`."""

    r: int = Field(default=16, ge=1, le=100_000)
    """Rank of the adapters."""
    alpha: int = Field(default=32, ge=1, le=1_000_000)
    """Scale of the adapters, as in peft's `lora_alpha`."""
    target_modules: str | Several[str] = "all-linear"
    """Which layers get adapters, as in peft."""
    merge: bool = True
    """Merge the adapters into the saved model; otherwise the adapters alone are saved."""
    four_bit: bool = False
    """QLoRA: keep the weights under the adapters in 4 bits; needs the extra `qlora`, and
    `merge: false`, since adapters cannot be merged into rounded weights."""

    @model_validator(mode="after")
    def _four_bits_are_not_merged(self) -> "LoraSettings":
        if self.four_bit and self.merge:
            raise ValueError(
                "four_bit needs merge: false; the adapters are saved alone, and using them loads "
                "the whole base model"
            )
        return self


class RoundsConfig(Config):
    """Rounds of sampling and training: every round draws from the model of the previous round."""

    count: int = Field(default=1, ge=1, le=1000)
    """Number of rounds; 1 trains once, on the base's candidates."""
    kind: Literal["on-policy", "compounding"] = "on-policy"
    """`on-policy` rounds keep the goal: new completions are ranked among the base's stored ones.
    In `compounding` rounds the new model becomes the base: m rounds of best-of-n aim at
    best-of-n^m."""


class TrainingConfig(Config):
    """Objective, optimiser and bookkeeping of one training run."""

    objective: str = "rank"
    """`rank` uses all n candidates; `pair` is the published BoNBoN loss on the best and worst;
    `ipo` and `sft` are its two halves; `dpo` trains DPO on the same pairs. `rloo` and `grpo` are
    KL-regularised RLHF through TRL, and need the extra `fit`. Other packages can add objectives."""
    alpha: float | None = Field(default=None, ge=0, le=1000)
    """Weight of the SFT term in `rank` (default 0.05) and `pair` (default 0.005)."""
    beta: float = Field(default=DEFAULT_BETA, gt=0, le=1e6)
    """DPO's β, or the weight of the KL in `rloo` and `grpo`; for the other objectives the tilt
    sets the strength."""
    rlhf_reward: Literal["raw", "quantile"] = "raw"
    """What `rloo` and `grpo` maximise: the raw reward, or its quantile among the base's stored
    rewards of the prompt, which leads to the optimal tilt exp(u/β)."""
    num_generations: int | None = Field(default=None, ge=2, le=100_000)
    """Completions per prompt that `rloo` and `grpo` draw in a step and compare with each other; by
    default the recipe's n."""
    seed: Seed | None = None
    """Seed of the order of prompts and of new adapters; by default the recipe's seed."""
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Peak learning rate of AdamW; by default 2e-5, or 2.5e-4 for adapters."""
    epochs: float = Field(default=1.0, gt=0, le=10_000)
    """Passes over the training prompts."""
    stop_at: float = Field(default=1.0, gt=0, le=1)
    """End after this share of the steps. The learning rate still follows the schedule of all
    steps, so the model equals the full run's checkpoint at that step."""
    batch_size: int = Field(default=4, ge=1, le=1_000_000)
    """Prompts, each with its candidates, per optimiser step over all processes."""
    tokens_per_forward: int = Field(default=2048, ge=1, le=1_000_000_000)
    """Largest micro-batch in tokens, padding included (at least one prompt's candidates): a lower
    value needs less memory and gives the same gradients. `rloo` and `grpo` use TRL's batches."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0."""
    lr_scheduler: Literal["linear", "cosine", "constant_with_warmup"] = "cosine"
    """Shape of the learning rate after the warm-up."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """AdamW's weight decay."""
    adam_beta2: float = Field(default=0.99, gt=0, lt=1)
    """AdamW's second-moment decay."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    ranks: Several[int] | None = None
    """Which candidates `rank` trains on, 1 the worst, −1 the best; by default all. The SFT weights
    of these candidates are scaled to sum to 1; if the tilt draws none of them, there is no SFT
    term."""
    validation_groups: int = Field(default=16, ge=0, le=1_000_000)
    """Training prompts held out for validation, at most a tenth of all. `rloo` and `grpo` have no
    validation loss and hold out none."""
    early_stopping: int | None = Field(default=None, ge=1, le=100_000)
    """Stop after this many evaluations without a lower residual variance (`sft` and `dpo`: a lower
    loss) on the validation prompts, and keep the weights of the best evaluation. By default
    training runs to its end. With early stopping, `evaluations` sets how often the model is
    evaluated and saved; `checkpoints` is ignored."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """`bfloat16` is autocast over float32 master weights; frozen weights under adapters keep the
    policy's precision. `float32` computes everything in float32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    preferences: UserPath | None = None
    """A file of `prompt`, `chosen`, `rejected` to train `dpo` on, instead of drawn candidates."""
    lora: LoraSettings | None = None
    """Adapters instead of full fine-tuning."""
    checkpoints: int = Field(default=4, ge=1, le=100_000)
    """How many checkpoints to resume from are saved during training."""
    evaluations: int = Field(default=6, ge=1, le=100_000)
    """How many times during training the validation loss is measured."""
    report_to: Several[str] = ()
    """Trackers that transformers knows: `tensorboard`, `wandb`, `mlflow`."""

    reference: Literal["auto", "stored", "recomputed"] = "auto"
    """The base's log-probabilities: `stored` with the candidates, or `recomputed` by the policy
    before training. `auto` recomputes them if a sample of the stored ones disagrees."""

    def build_objective(self) -> Objective:
        """Return the objective with its settings."""
        return OBJECTIVES[self.objective](alpha=self.alpha, beta=self.beta, ranks=self.ranks)

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate in force."""
        if self.learning_rate is not None:
            return self.learning_rate
        objective = OBJECTIVES[self.objective]
        return objective.learning_rate if self.lora is None else objective.lora_learning_rate

    @property
    def sft_weight(self) -> float:
        """The α in force."""
        return self.build_objective().sft_weight

    @field_validator("objective")
    @classmethod
    def _objective_is_known(cls, name: str) -> str:
        if name not in OBJECTIVES:
            raise ValueError(OBJECTIVES.unknown_line(name))
        return name

    @model_validator(mode="after")
    def _settings_fit_the_objective(self) -> "TrainingConfig":
        """Refuse settings that the objective does not read; defaults pass: recipes hold them."""
        name, objective = self.objective, OBJECTIVES[self.objective]
        if self.alpha is not None and objective.default_alpha is None:
            raise ValueError(
                f"alpha = {self.alpha} is set, but objective {name!r} has no alpha; only "
                f"{_objectives(lambda other: other.default_alpha is not None)} do"
            )
        if self.sft_weight > objective.max_alpha:
            raise ValueError(
                f"alpha must lie in [0, {objective.max_alpha:g}] for {name}, got {self.alpha}"
            )
        if self.preferences is not None and not objective.takes_preferences:
            raise ValueError(
                f"preferences is set with objective {name!r}; only "
                f"{_objectives(lambda other: other.takes_preferences)} trains on pairs, which have "
                "no rank among n draws"
            )
        if self.ranks is not None and (
            not objective.takes_ranks or 0 in self.ranks or len(set(self.ranks)) < 2
        ):
            raise ValueError(
                f"ranks = {list(self.ranks)} is set with objective {name!r}; ranks are for "
                f"{_objectives(lambda other: other.takes_ranks)} alone, at least two, and count "
                "from 1 (worst) or back from −1 (best)"
            )
        if self.beta != DEFAULT_BETA and not objective.has_beta:
            raise ValueError(
                f"beta = {self.beta} is set, but objective {name!r} has no beta; only "
                f"{_objectives(lambda other: other.has_beta)} do"
            )
        if self.rlhf_reward != "raw" and not objective.online:
            raise ValueError(
                f"rlhf_reward = {self.rlhf_reward!r} is set with objective {name!r}; it is for "
                f"{_objectives(_is_online)}, the other objectives train on ranks"
            )
        if self.num_generations is not None and not objective.online:
            raise ValueError(
                f"num_generations = {self.num_generations} is set with objective {name!r}; it is "
                f"for {_objectives(_is_online)}, the others train on the recipe's n"
            )
        if self.early_stopping is not None and objective.online:
            raise ValueError(
                f"early_stopping = {self.early_stopping} is set, but objective {name!r} has no "
                "loss on validation prompts to stop by; leave it out"
            )
        return self


def _is_online(objective: type[Objective]) -> bool:
    return objective.online


def _objectives(fits: Callable[[type[Objective]], bool]) -> str:
    """Return the names of the objectives that fit, as a phrase."""
    *first, last = (name for name in OBJECTIVES.names() if fits(OBJECTIVES[name]))
    return f"{', '.join(first)} and {last}" if first else last
