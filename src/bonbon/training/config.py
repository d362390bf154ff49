"""How the policy is trained."""

from typing import Literal

from pydantic import Field, model_validator

from bonbon.config import Config, Seed, Several, UserPath

ObjectiveName = Literal["rank", "pair", "sft", "ipo", "dpo", "rloo", "grpo"]

ONLINE: frozenset[ObjectiveName] = frozenset({"rloo", "grpo"})
"""Objectives that draw their own answers while they train; they need the extra `fit`."""

DEFAULT_BETA = 0.1
DEFAULT_ALPHA = {"rank": 0.05, "pair": 0.005}
FULL_LEARNING_RATE, LORA_LEARNING_RATE = 2e-5, 2.5e-4


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
    """QLoRA: hold the weights under the adapters in 4 bits; needs the extra `qlora`, and
    `merge: false`, since rounded weights cannot take the adapters in."""

    @model_validator(mode="after")
    def _four_bits_stay_apart(self) -> "LoraSettings":
        if self.four_bit and self.merge:
            raise ValueError(
                "four_bit needs merge: false; the adapters are saved alone, and any use of them "
                "loads the whole base"
            )
        return self


class RoundsConfig(Config):
    """Sample and train again: every round draws from the model of the round before."""

    count: int = Field(default=1, ge=1, le=1000)
    """How many rounds; 1 is training once, on the base's candidates."""
    kind: Literal["on-policy", "compounding"] = "on-policy"
    """`on-policy` rounds have the same goal: new answers are ranked among the base's stored ones.
    In `compounding` rounds the new model becomes the base: m rounds of best-of-n aim at
    best-of-n^m."""


class TrainingConfig(Config):
    """Objective, optimiser and bookkeeping of one training run."""

    objective: ObjectiveName = "rank"
    """`rank` uses all n candidates; `pair` is the published BoNBoN loss on the best and worst;
    `ipo` and `sft` are its two halves; `dpo` trains DPO on the same pairs. `rloo` and `grpo` are
    KL-regularised RLHF through TRL."""
    alpha: float | None = Field(default=None, ge=0, le=1000)
    """Weight of the SFT term in `rank` (default 0.05) and `pair` (default 0.005)."""
    beta: float = Field(default=DEFAULT_BETA, gt=0, le=1e6)
    """DPO's β, or the weight of the KL in `rloo` and `grpo`; the other objectives derive theirs
    from the tilt."""
    rlhf_reward: Literal["raw", "quantile"] = "raw"
    """What `rloo` and `grpo` maximise: the reward as it is, or its quantile among the base's
    stored rewards of the prompt, which leads to the optimal tilt exp(u/β)."""
    num_generations: int | None = Field(default=None, ge=2, le=100_000)
    """Answers to a prompt that `rloo` and `grpo` draw in a step, each judged against the others; by
    default the recipe's n."""
    seed: Seed | None = None
    """Orders the prompts and starts adapters; by default the recipe's seed."""
    learning_rate: float | None = Field(default=None, gt=0, le=1)
    """Peak learning rate of AdamW; by default 2e-5, or 2.5e-4 for adapters."""
    epochs: float = Field(default=1.0, gt=0, le=10_000)
    """Passes over the training prompts."""
    stop_at: float = Field(default=1.0, gt=0, le=1)
    """End after this share of the steps, the learning rate following the schedule of all of them:
    the model is the whole run's checkpoint there."""
    batch_size: int = Field(default=4, ge=1, le=1_000_000)
    """Prompts, each with its candidates, per optimiser step, all processes together."""
    tokens_per_forward: int = Field(default=2048, ge=1, le=1_000_000_000)
    """A batch is run in parts of at most so many tokens, padding included (one prompt's candidates
    at least): less memory, same gradients. `rloo` and `grpo` go by TRL's own batches."""
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
    """Which candidates `rank` trains on, 1 the worst, −1 the best; by default all of them. The SFT
    term shares its weight out among them; there is none where the tilt draws none of them."""
    validation_groups: int = Field(default=16, ge=0, le=1_000_000)
    """Training prompts set aside to watch the loss on; at most a tenth of them is taken. `rloo`
    and `grpo`, which have no loss to watch, set none aside."""
    early_stopping: int | None = Field(default=None, ge=1, le=100_000)
    """Stop after so many evaluations without a lower residual variance (`sft` and `dpo`: a lower
    loss) on the set-aside prompts, and keep the weights of the best one. By default training runs
    to its end."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """`bfloat16` is autocast over float32 master weights; weights under adapters, which stay as
    they are, keep the policy's precision. `float32` computes all in it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    preferences: UserPath | None = None
    """A file of `prompt`, `chosen`, `rejected` to train `dpo` on, in place of drawn candidates."""
    lora: LoraSettings | None = None
    """Adapters instead of full fine-tuning."""
    checkpoints: int = Field(default=4, ge=1, le=100_000)
    """How many times during training the state is saved, to resume from."""
    evaluations: int = Field(default=6, ge=1, le=100_000)
    """How many times during training the loss on the set-aside prompts is measured."""
    report_to: Several[str] = ()
    """Trackers that transformers knows: `tensorboard`, `wandb`, `mlflow`."""

    reference: Literal["auto", "stored", "recomputed"] = "auto"
    """The base's log-probabilities: those that came with the candidates, or computed afresh by
    the policy before training. `auto` recomputes where a sample of them disagrees."""

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate in force."""
        default = FULL_LEARNING_RATE if self.lora is None else LORA_LEARNING_RATE
        return default if self.learning_rate is None else self.learning_rate

    @property
    def sft_weight(self) -> float:
        """The α in force."""
        return DEFAULT_ALPHA.get(self.objective, 0.0) if self.alpha is None else self.alpha

    @property
    def reads_beta(self) -> bool:
        """Whether the objective has a β of its own."""
        return self.objective in ONLINE | {"dpo"}

    @model_validator(mode="after")
    def _settings_fit_the_objective(self) -> "TrainingConfig":
        if self.alpha is not None and self.objective not in DEFAULT_ALPHA:
            raise ValueError(
                f"alpha = {self.alpha} is set, but objective {self.objective!r} has no alpha; "
                "only rank and pair do"
            )
        if self.objective == "pair" and self.sft_weight > 1:
            raise ValueError(f"alpha must lie in [0, 1] for pair, got {self.alpha}")
        if self.preferences is not None and self.objective != "dpo":
            raise ValueError(
                f"preferences is set with objective {self.objective!r}; only dpo trains on pairs "
                "whose place among n draws is not known"
            )
        if self.ranks is not None and (
            self.objective != "rank" or 0 in self.ranks or len(set(self.ranks)) < 2
        ):
            raise ValueError(
                f"ranks = {list(self.ranks)} is set with objective {self.objective!r}; ranks are "
                "for rank alone, at least two, and count from 1 (worst) or back from −1 (best)"
            )
        return self

    @model_validator(mode="after")
    def _nothing_is_set_in_vain(self) -> "TrainingConfig":
        """Refuse what the objective would not read; defaults pass, as recipes write them out."""
        if self.beta != DEFAULT_BETA and not self.reads_beta:
            raise ValueError(
                f"beta = {self.beta} is set, but objective {self.objective!r} has no beta; only "
                "dpo, rloo and grpo do"
            )
        if self.rlhf_reward != "raw" and self.objective not in ONLINE:
            raise ValueError(
                f"rlhf_reward = {self.rlhf_reward!r} is set with objective {self.objective!r}; it "
                "is for rloo and grpo, the other objectives train on ranks"
            )
        if self.num_generations is not None and self.objective not in ONLINE:
            raise ValueError(
                f"num_generations = {self.num_generations} is set with objective "
                f"{self.objective!r}; it is for rloo and grpo, the others train on the recipe's n"
            )
        if self.early_stopping is not None and self.objective in ONLINE:
            raise ValueError(
                f"early_stopping = {self.early_stopping} is set, but objective "
                f"{self.objective!r} has no loss on set-aside prompts to stop by; leave it out"
            )
        return self
