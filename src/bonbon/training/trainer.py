"""The trainer: transformers' `Trainer` with packed groups of candidates and bonbon's losses."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import Accelerator, DistributedType
from jaxtyping import Float
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method
from torch.utils.data import DataLoader, Dataset
from transformers import (
    PreTrainedModel,
    Trainer,
)
from transformers.trainer_callback import PrinterCallback

from bonbon.errors import ConfigError, TrainingError
from bonbon.models.packed.layout import Layout, PackedBatch, PromptGroup, pack
from bonbon.models.packed.logprobs import completion_logprobs, require_finite
from bonbon.models.packed.probe import layout_attention, packed_layout
from bonbon.models.policy import Policy
from bonbon.training.arguments import split_validation, training_arguments
from bonbon.training.callbacks import (
    StepCallback,
    StopAt,
    StopEarly,
    TrainingLog,
    finite_gradients,
    finite_weights,
    not_a_number,
    tracker_callbacks,
)
from bonbon.training.checkpoints import KeepLastCheckpoint, last_checkpoint
from bonbon.training.config import TrainingConfig
from bonbon.training.lora import add_adapters, inner_model
from bonbon.training.metrics import RunningMetrics
from bonbon.training.objectives import RankedExample
from bonbon.training.references import REFERENCE_FILE, resolve_references

T = TypeVar("T")


def num_microbatches(groups: Sequence[PromptGroup], layout: Layout, tokens_per_forward: int) -> int:
    """Return the fewest parts, in order, that each keep within the budget of tokens.

    Padding counts. A group is never split: a group larger than the budget is a part of its own.
    """
    return len(_ends([group.fed_shape(layout) for group in groups], tokens_per_forward))


def microbatches(
    items: Sequence[T], shapes: Sequence[tuple[int, int]], parts: int
) -> list[Sequence[T]]:
    """Split items, in their order, into parts such that the largest is as small as possible.

    Args:
        items: what to split.
        shapes: rows and length of each item; a part has the sum of the rows and the largest length.
        parts: at least 1 and at most the number of items.
    """
    low, high = 1, sum(rows for rows, _ in shapes) * max(length for _, length in shapes)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_ends(shapes, middle)) <= parts else (middle + 1, high)
    cuts = [0, *_ends(shapes, low)]
    while len(cuts) <= parts:  # fewer parts are as even; halve the ones with the most items
        start, end = max(pairwise(cuts), key=lambda ends: ends[1] - ends[0])
        cuts = sorted([*cuts, (start + end) // 2])
    return [items[start:end] for start, end in pairwise(cuts)]


def _ends(shapes: Sequence[tuple[int, int]], budget: int) -> list[int]:
    """Return where each part ends if every part takes as many items as fit, at least one."""
    ends: list[int] = []
    filled = longest = 0
    for index, (rows, length) in enumerate(shapes):
        if index and (filled + rows) * max(longest, length) > budget:
            ends.append(index)
            filled = longest = 0
        filled, longest = filled + rows, max(longest, length)
    return [*ends, len(shapes)]


def disable_dropout(model: torch.nn.Module) -> None:
    """Set every dropout rate in a model to 0, also rates that layers keep as plain numbers."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


EXAMPLES = "examples"
"""Key of a batch: the Trainer expects batches to be mappings."""


class ExampleDataset(Dataset[RankedExample]):
    """Ranked examples for torch's data loader."""

    def __init__(self, examples: Sequence[RankedExample]) -> None:
        """Take the examples."""
        self.examples = examples

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.examples)

    def __getitem__(self, index: int) -> RankedExample:
        """Return an example."""
        return self.examples[index]


class PackedScorer(torch.nn.Module):
    """A model with a forward pass from a packed batch to its completions' log-probabilities.

    Data parallelism wraps this module: gradients are exchanged for forward passes of the module
    that it wraps. FSDP shards the model itself, so that checkpoints keep the model's names of
    weights.
    """

    def __init__(self, model: torch.nn.Module, *, temperature: float, bfloat16: bool) -> None:
        """Take a model, with adapters or without, and how to compute."""
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.use_bfloat16 = bfloat16

    def forward(self, batch: PackedBatch) -> Float[Tensor, " sequences"]:
        """Return every completion's summed log-probability."""
        if not isinstance(self.model, FSDPModule):
            return self._logprobs(batch)
        # FSDP gathers the weights outside of its layers only for methods that it knows.
        if not hasattr(self.model, "packed_logprobs"):
            cast("Any", self.model).packed_logprobs = self._logprobs
            register_fsdp_forward_method(self.model, "packed_logprobs")
        return cast("Any", self.model).packed_logprobs(batch)

    def _logprobs(self, batch: PackedBatch) -> Float[Tensor, " sequences"]:
        model = inner_model(self.model)
        device = batch.input_ids.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.use_bfloat16):
            return completion_logprobs(model, batch, temperature=self.temperature)


class PreferenceTrainer(Trainer):
    """Trains a policy on ranked candidates; no reference model is needed.

    The reference log-probabilities were computed when the candidates were drawn. A batch is one
    optimiser step; it is run in micro-batches that fit `tokens_per_forward`.
    """

    _layout: Layout
    """How the policy reads groups; set by `fit`."""

    def __init__(
        self,
        policy: Policy,
        examples: Sequence[RankedExample],
        config: TrainingConfig,
        *,
        temperature: float,
        output_dir: Path,
        seed: int = 0,
        starts_at_reference: bool = True,
        on_step: Callable[[int, int], None] | None = None,
    ) -> None:
        """Prepare to train `policy.model` in place.

        Args:
            policy: its model is trained; in float32, or in any precision under adapters.
            examples: from `ranked_examples`.
            config: objective and optimiser.
            temperature: sampling temperature of the candidates; it is part of the policy.
            output_dir: a run directory; gets `checkpoints/` and `training.jsonl`.
            seed: seed of the order of examples and of new adapters.
            starts_at_reference: the references are this policy's log-probabilities, so they can be
                checked, and computed where they are unknown.
            on_step: called after every optimiser step with the number of steps and of trained
                tokens since the last call.

        Raises:
            TrainingError: the examples are not this policy's, or too few for early stopping.
            ConfigError: the batch size is not a multiple of the number of processes, or the
                processes are launched in a way that is not supported.
        """
        self.config = config
        self.temperature = temperature
        self.trained_tokens = 0
        self._examples = examples
        self._objective = config.build_objective()
        self._metrics = RunningMetrics(self._objective)
        self._starts_at_reference = starts_at_reference
        _check_vocabulary(policy, examples)
        training, validation = split_validation(examples, config)
        _prepare(policy.model, config)
        super().__init__(
            model=add_adapters(policy.model, config.lora, seed=seed),
            args=training_arguments(
                config, len(training), policy, output_dir, seed, validates=bool(validation)
            ),
            train_dataset=ExampleDataset(training),
            eval_dataset=ExampleDataset(validation) if validation else None,
            data_collator=_collate,
            callbacks=[
                KeepLastCheckpoint(),
                TrainingLog(output_dir / "training.jsonl"),
                StopAt(config.stop_at),
                *tracker_callbacks(config.report_to, output_dir),
            ],
        )
        _check_launch(self.accelerator)
        assert isinstance(self.model, torch.nn.Module)
        self._scorer = PackedScorer(
            self.model, temperature=temperature, bfloat16=config.precision == "bfloat16"
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False
        if config.early_stopping is not None:
            self.add_callback(StopEarly(config.early_stopping))
        if on_step is not None:
            self.add_callback(StepCallback(on_step, lambda: self.trained_tokens))

    def fit(self) -> torch.nn.Module:
        """Train, from the last complete checkpoint if there is one, and return the model.

        The model is the policy's, or peft's model around it if there are adapters.

        Raises:
            TrainingError: the loss is no longer a number, or the candidates are another policy's.
        """
        assert self.model is not None
        groups = [example.group for example in self._examples]
        checkpoint = last_checkpoint(Path(str(self.args.output_dir)))
        self.args.eval_on_start = self.eval_dataset is not None and checkpoint is None
        with packed_layout(inner_model(self.model), groups) as self._layout:
            if self._starts_at_reference:
                self._resolve_references(fresh=checkpoint is None)
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if not finite_weights(self.model):
            raise TrainingError(not_a_number("a weight", self.state.global_step))
        return self.accelerator.unwrap_model(self.model)

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the weights only."""
        return self.accelerator.distributed_type == DistributedType.FSDP

    def unsharded(self, policy: Policy) -> torch.nn.Module:
        """Return another copy of the policy's model, prepared to load `full_state`."""
        return add_adapters(policy.model, self.config.lora, seed=self.args.seed)

    def full_state(self) -> dict[str, Tensor]:
        """Return all weights on the CPU, gathered from all shards.

        Every process must call this; the main process gets the weights.
        """
        state = cast("Any", self.accelerator.get_state_dict(cast("Any", self.model)))
        return {name: weight.detach().cpu() for name, weight in state.items()}

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Accumulate the gradient of the batch's mean loss over micro-batches; return the loss."""
        model.train()
        # FSDP gives the sharded model here, data parallelism the scorer that it wraps.
        scorer = self._scorer if self.is_sharded else model
        examples: list[RankedExample] = inputs[EXAMPLES]
        groups = [example.trained_group for example in examples]
        parts = microbatches(
            range(len(examples)), self._shapes(groups), self._num_microbatches(groups)
        )
        num_new, num_new_everywhere = self._num_new()
        share = num_new_everywhere / self.accelerator.num_processes  # gradients are averaged
        total = torch.zeros((), device=self.args.device)
        for number, part in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else self._without_sync(model):
                new = sum(index < num_new for index in part)
                losses = self._losses(scorer, [examples[index] for index in part], num_new=new)
                loss = (losses[:new].sum() + 0 * losses[new:].sum()) / share
                self._check(loss)
                self.accelerator.backward(loss)
            total += loss.detach()
        if not finite_gradients(model):
            raise TrainingError(not_a_number("the gradient", self.state.global_step))
        self.trained_tokens += sum(
            len(tokens) for group in groups[:num_new] for tokens in group.completions
        )
        return total

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: object = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure and log the metrics of the validation examples, over all their ranks."""
        assert self.model is not None
        validation = eval_dataset or self.eval_dataset
        assert isinstance(validation, ExampleDataset)
        examples = list(validation.examples)
        self.model.eval()
        running = RunningMetrics(self._objective)
        groups = [example.group for example in examples]
        parts = num_microbatches(groups, self._layout, self.config.tokens_per_forward)
        with layout_attention(inner_model(self.model), self._layout):
            for part in microbatches(examples, self._shapes(groups), parts):
                self._losses(self._scorer, part, metrics=running)
        metrics = {f"{metric_key_prefix}_{name}": mean for name, mean in running.take().items()}
        self.log(metrics)
        # transformers' early stopping reads the metrics through this callback.
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the metrics since the last log, and pass all on to the trackers."""
        if "loss" in logs:
            logs = {**logs, **self._metrics.take(self.accelerator)}
        super().log(logs, start_time)

    def _wrap_model(
        self,
        model: torch.nn.Module,
        training: bool = True,
        dataloader: DataLoader[Any] | None = None,
    ) -> torch.nn.Module:
        """Let data parallelism wrap the scorer instead of the model; FSDP shards the model."""
        if self.is_sharded:
            return super()._wrap_model(model, training, dataloader)
        return self.accelerator.prepare_model(self._scorer, device_placement=False)

    def _num_new(self) -> tuple[int, int]:
        """Return how many of this step's examples are new: in this process, and in all.

        If the prompts do not fill the last batch of an epoch, the batch is filled up with prompts
        that were trained on before. Those come last and do not count.
        """
        assert isinstance(self.train_dataset, ExampleDataset)
        batch, size = self.config.batch_size, len(self.train_dataset)
        is_last = (self.state.global_step + 1) % math.ceil(size / batch) == 0
        everywhere = size % batch or batch if is_last else batch
        per_process = batch // self.accelerator.num_processes
        before = per_process * self.accelerator.process_index
        return min(max(everywhere - before, 0), per_process), everywhere

    def _losses(
        self,
        scorer: torch.nn.Module,
        examples: Sequence[RankedExample],
        *,
        metrics: RunningMetrics | None = None,
        num_new: int | None = None,
    ) -> Tensor:
        """Return each example's loss; training reads only the ranks that the objective needs.

        Args:
            scorer: gives the log-probabilities of a packed batch.
            examples: a micro-batch.
            metrics: add all ranks to these metrics; by default the trained ranks to training's.
            num_new: how many examples to add to the metrics; by default all.
        """
        all_ranks = metrics is not None
        groups = [example.group if all_ranks else example.trained_group for example in examples]
        logprobs = scorer(self._packed(groups)).split([len(group.completions) for group in groups])
        losses = [
            self._objective.example_loss(
                example, policy[list(example.trained)] if all_ranks else policy
            )
            for example, policy in zip(examples, logprobs, strict=True)
        ]
        stacked = torch.stack(losses)
        (metrics or self._metrics).add(examples[:num_new], logprobs[:num_new], stacked[:num_new])
        return stacked

    def _packed(self, groups: Sequence[PromptGroup]) -> PackedBatch:
        return pack(groups, self._layout).to(self.args.device)

    def _shapes(self, groups: Sequence[PromptGroup]) -> list[tuple[int, int]]:
        """Return the rows and the length of what the policy reads of each group."""
        return [group.fed_shape(self._layout) for group in groups]

    def _resolve_references(self, *, fresh: bool) -> None:
        """Make sure that the reference log-probabilities are the policy's before it is trained."""
        datasets = [self.train_dataset, *([self.eval_dataset] if self.eval_dataset else [])]
        parts = [
            list(dataset.examples) for dataset in datasets if isinstance(dataset, ExampleDataset)
        ]
        resolved = resolve_references(
            [example for part in parts for example in part],
            self._reference_logprobs,
            config=self.config,
            file=Path(str(self.args.output_dir)).parent / REFERENCE_FILE,
            fresh=fresh,
            writes=self.accelerator.is_main_process,
        )
        for dataset, start in zip(datasets, (0, len(parts[0])), strict=False):
            assert isinstance(dataset, ExampleDataset)
            dataset.examples = resolved[start : start + len(dataset.examples)]

    @torch.no_grad()
    def _reference_logprobs(self, groups: Sequence[PromptGroup]) -> list[tuple[float, ...]]:
        """Return the log-probabilities of the groups' completions under the untrained policy."""
        cast("Any", self.model).to(self.args.device).eval()
        parts = num_microbatches(groups, self._layout, self.config.tokens_per_forward)
        logprobs: list[tuple[float, ...]] = []
        for part in microbatches(groups, self._shapes(groups), parts):
            flat = self._scorer(self._packed(part)).double().cpu()
            require_finite(flat.tolist(), "reading the candidates before training")
            by_group = flat.split([len(group.completions) for group in part])
            logprobs.extend(tuple(group.tolist()) for group in by_group)
        return logprobs

    def _num_microbatches(self, groups: Sequence[PromptGroup]) -> int:
        """Return the number of micro-batches, the same in all processes.

        Under FSDP every forward pass gathers weights from all processes, so all run as many.
        """
        parts = num_microbatches(groups, self._layout, self.config.tokens_per_forward)
        if self.accelerator.num_processes == 1:
            return parts
        gathered = self.accelerator.gather(torch.tensor([parts], device=self.args.device))
        return min(len(groups), int(torch.as_tensor(gathered).max()))

    def _without_sync(self, model: torch.nn.Module) -> AbstractContextManager[Any]:
        """Skip the exchange of gradients, under plain data parallelism."""
        data_parallel = {DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}
        if self.accelerator.distributed_type in data_parallel:
            return self.accelerator.no_sync(model)
        return nullcontext()

    def _check(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise TrainingError(not_a_number("the loss", self.state.global_step))


def _prepare(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Switch dropout off, and gradient checkpointing on if the settings say so."""
    disable_dropout(model)
    if not config.gradient_checkpointing:
        return
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:  # transformers' older name
        model.gradient_checkpointing_enable()


def _collate(examples: list[RankedExample]) -> dict[str, list[RankedExample]]:
    return {EXAMPLES: examples}


def _check_launch(accelerator: Accelerator) -> None:
    """Refuse ways to launch several processes that are not supported.

    Raises:
        ConfigError: it is FSDP 1 or DeepSpeed.
    """
    kind = accelerator.distributed_type
    if kind == DistributedType.DEEPSPEED or (
        kind == DistributedType.FSDP and not accelerator.is_fsdp2
    ):
        raise ConfigError(
            f"got processes launched with {kind.value}, expected plain data parallelism or FSDP 2; "
            "launch with `--multi_gpu`, or with `--use_fsdp --fsdp_version 2`"
        )


def _check_vocabulary(policy: Policy, examples: Sequence[RankedExample]) -> None:
    """Refuse token ids that are not in the policy's vocabulary.

    Raises:
        TrainingError: there is one.
    """
    size = len(cast("Any", policy.model.get_input_embeddings()).weight)
    largest = max(
        max(tokens)
        for example in examples
        for tokens in (example.group.prompt, *example.group.completions)
    )
    if largest >= size:
        raise TrainingError(
            f"the candidates hold token id {largest}, but {policy.name} knows {size} tokens; "
            "expected candidates of the policy that is trained: draw them with its tokenizer"
        )
