"""The trainer: transformers' own, fed with packed groups of candidates and bonbon's losses."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import DistributedType
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    PreTrainedModel,
    Trainer,
)
from transformers.trainer_callback import PrinterCallback

from bonbon.errors import TrainingError
from bonbon.models.packed.layout import Layout, PackedBatch, PromptGroup, pack
from bonbon.models.packed.logprobs import completion_logprobs, require_finite
from bonbon.models.packed.probe import packed_layout
from bonbon.models.policy import Policy
from bonbon.training.arguments import split, training_arguments
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
from bonbon.training.examples import RankedExample, example_loss
from bonbon.training.lora import add_adapters, inner_model
from bonbon.training.metrics import Meter
from bonbon.training.references import REFERENCE_FILE, settled

T = TypeVar("T")


def num_parts(groups: Sequence[PromptGroup], layout: Layout, tokens_per_forward: int) -> int:
    """Return the fewest parts, in order, that each keep within the budget of tokens.

    Padding counts. A single group is never cut: one that is larger is a part of its own.
    """
    return len(_ends([group.fed_shape(layout) for group in groups], tokens_per_forward))


def cut(items: Sequence[T], shapes: Sequence[tuple[int, int]], parts: int) -> list[Sequence[T]]:
    """Cut items, in their order, into so many parts, the largest as small as can be.

    Args:
        items: what to cut.
        shapes: rows and length of each item; a part has the rows of all, each of the most length.
        parts: at least 1 and at most as many as there are items.
    """
    low, high = 1, sum(rows for rows, _ in shapes) * max(length for _, length in shapes)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(_ends(shapes, middle)) <= parts else (middle + 1, high)
    cuts = [0, *_ends(shapes, low)]
    while len(cuts) <= parts:  # fewer are as even; some of more than one item are cut in two
        start, end = max(pairwise(cuts), key=lambda ends: ends[1] - ends[0])
        cuts = sorted([*cuts, (start + end) // 2])
    return [items[start:end] for start, end in pairwise(cuts)]


def _ends(shapes: Sequence[tuple[int, int]], most: int) -> list[int]:
    """Return where each part ends if every one takes as many items as fit, at least one."""
    ends: list[int] = []
    filled = longest = 0
    for place, (rows, length) in enumerate(shapes):
        if place and (filled + rows) * max(longest, length) > most:
            ends.append(place)
            filled = longest = 0
        filled, longest = filled + rows, max(longest, length)
    return [*ends, len(shapes)]


def disable_dropout(model: torch.nn.Module) -> None:
    """Set every rate of dropout in a model to 0, also those that layers hand on as numbers."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


EXAMPLES = "examples"
"""Key of a batch: the Trainer wants batches to be mappings."""


class ExampleDataset(Dataset[RankedExample]):
    """Ranked examples as torch's data loader wants them."""

    def __init__(self, examples: Sequence[RankedExample]) -> None:
        """Hold the examples."""
        self.examples = examples

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.examples)

    def __getitem__(self, index: int) -> RankedExample:
        """Return one."""
        return self.examples[index]


class PreferenceTrainer(Trainer):
    """Trains a policy on ranked candidates; no reference model is needed.

    The reference log-probabilities were paid for when the candidates were drawn. A batch is one
    optimiser step; it is run in parts that fit `tokens_per_forward`.
    """

    _layout: Layout
    """How the policy reads groups; known inside `_packed_forward`."""

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
            temperature: the one the candidates were drawn at; it is part of the policy.
            output_dir: a run directory; gets `checkpoints/` and `training.jsonl`.
            seed: orders the examples and initialises adapters.
            starts_at_reference: the policy is the one that the references are of, so that they
                can be checked, and computed where they are not known.
            on_step: called after every optimiser step with the numbers of steps taken and of tokens
                trained on since the last call.

        Raises:
            TrainingError: the examples are not this policy's, or too few to stop early by.
            ConfigError: the processes do not divide the batch.
        """
        self.config = config
        self.temperature = temperature
        self.trained_tokens = 0
        self._examples = examples
        self._meter = Meter(config.objective)
        self._starts_at_reference = starts_at_reference
        _check_vocabulary(policy, examples)
        training, validation = split(examples, config)
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
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = False
        if config.early_stopping is not None:
            self.add_callback(StopEarly(config.early_stopping))
        if on_step is not None:
            self.add_callback(StepCallback(on_step, lambda: self.trained_tokens))

    def fit(self) -> torch.nn.Module:
        """Train from the last complete checkpoint on, or from the start, and return the model.

        It is the policy's own, or with adapters peft's model around it.

        Raises:
            TrainingError: the loss is no longer a number, or the candidates are another policy's.
        """
        assert self.model is not None
        checkpoint = last_checkpoint(Path(str(self.args.output_dir)))
        self.args.eval_on_start = self.eval_dataset is not None and checkpoint is None
        with self._packed_forward(self.model):
            if self._starts_at_reference:
                self._settle_references(fresh=checkpoint is None)
            self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        if not finite_weights(self.model):
            raise TrainingError(not_a_number("a weight", self.state.global_step))
        return self.accelerator.unwrap_model(self.model)

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the weights only."""
        return self.accelerator.distributed_type == DistributedType.FSDP

    def unsharded(self, policy: Policy) -> torch.nn.Module:
        """Return another copy of the policy's model, made ready to take `full_state`."""
        return add_adapters(policy.model, self.config.lora, seed=self.args.seed)

    def full_state(self) -> dict[str, Tensor]:
        """Return all trained weights on the CPU, gathered from wherever they are sharded.

        Every process calls it; the main one gets them.
        """
        state = cast("Any", self.accelerator.get_state_dict(self.model_wrapped))
        return {name: weight.detach().cpu() for name, weight in state.items()}

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Accumulate the gradient of the batch's mean loss, part by part, and return the loss."""
        model.train()
        examples: list[RankedExample] = inputs[EXAMPLES]
        groups = [example.trained_group for example in examples]
        parts = cut(range(len(examples)), self._shapes(groups), self._num_parts(groups))
        own, everyones = self._num_new()
        share = everyones / self.accelerator.num_processes  # gradients are averaged over them
        total = torch.zeros((), device=self.args.device)
        for number, part in enumerate(parts, start=1):
            with nullcontext() if number == len(parts) else self._without_sync(model):
                new = sum(place < own for place in part)
                losses = self._losses(model, [examples[place] for place in part], num_new=new)
                loss = (losses[:new].sum() + 0 * losses[new:].sum()) / share
                self._check(loss)
                self.accelerator.backward(loss)
            total += loss.detach()
        if not finite_gradients(model):
            raise TrainingError(not_a_number("the gradient", self.state.global_step))
        self.trained_tokens += sum(
            len(tokens) for one in groups[:own] for tokens in one.completions
        )
        return total

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: object = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measure and log the loss on the examples that were set aside, all their ranks read."""
        assert self.model is not None
        held_out = eval_dataset or self.eval_dataset
        assert isinstance(held_out, ExampleDataset)
        examples = list(held_out.examples)
        self.model.eval()
        meter = Meter(self.config.objective)
        groups = [example.group for example in examples]
        parts = num_parts(groups, self._layout, self.config.tokens_per_forward)
        for part in cut(examples, self._shapes(groups), parts):
            self._losses(self.model, part, meter=meter)
        metrics = {f"{metric_key_prefix}_{name}": mean for name, mean in meter.take().items()}
        self.log(metrics)
        # What watches the metrics is transformers' own early stopping.
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what was noted since the last log, and pass it on to the trackers."""
        if "loss" in logs:
            logs = {**logs, **self._meter.take(self.accelerator)}
        super().log(logs, start_time)

    def _num_new(self) -> tuple[int, int]:
        """Return how many of this step's examples are this process's own, and how many all have.

        Where the prompts do not divide the batch, the last one of an epoch is filled up with
        prompts that were trained on already; those come last, and count for nothing.
        """
        assert isinstance(self.train_dataset, ExampleDataset)
        batch, size = self.config.batch_size, len(self.train_dataset)
        is_last = (self.state.global_step + 1) % math.ceil(size / batch) == 0
        everyones = size % batch or batch if is_last else batch
        each = batch // self.accelerator.num_processes
        before = each * self.accelerator.process_index
        return min(max(everyones - before, 0), each), everyones

    def _losses(
        self,
        model: torch.nn.Module,
        examples: Sequence[RankedExample],
        *,
        meter: Meter | None = None,
        num_new: int | None = None,
    ) -> Tensor:
        """Return each example's loss; in training only what the objective needs is read.

        Args:
            model: as the Trainer wraps it.
            examples: a part of a batch.
            meter: takes note when all ranks are to be read; the training one by default.
            num_new: how many to take note of; by default all.
        """
        whole = meter is not None
        groups = [example.group if whole else example.trained_group for example in examples]
        flat = model(self._packed(groups))
        logprobs = flat.split([len(group.completions) for group in groups])
        losses = [
            example_loss(self.config, example, policy[list(example.trained)] if whole else policy)
            for example, policy in zip(examples, logprobs, strict=True)
        ]
        stacked = torch.stack(losses)
        (meter or self._meter).add(examples[:num_new], logprobs[:num_new], stacked[:num_new])
        return stacked

    def _packed(self, groups: Sequence[PromptGroup]) -> PackedBatch:
        return pack(groups, self._layout).to(self.args.device)

    def _shapes(self, groups: Sequence[PromptGroup]) -> list[tuple[int, int]]:
        """Return the rows and the length of what the policy reads of each group."""
        return [group.fed_shape(self._layout) for group in groups]

    @contextmanager
    def _packed_forward(self, model: torch.nn.Module) -> Generator[None]:
        """Let a call of the model, wrapped by whatever trains it in parallel, score a batch."""

        def forward(batch: PackedBatch) -> Tensor:
            bfloat16 = self.config.precision == "bfloat16"
            with torch.autocast(self.args.device.type, torch.bfloat16, enabled=bfloat16):
                return completion_logprobs(inner_model(model), batch, temperature=self.temperature)

        groups = [example.group for example in self._examples]
        with packed_layout(inner_model(model), groups) as self._layout:
            model.forward = forward
            try:
                yield
            finally:
                del model.forward

    def _settle_references(self, *, fresh: bool) -> None:
        """Make sure that reference log-probabilities are the policy's own before it moves."""
        datasets = [self.train_dataset, *([self.eval_dataset] if self.eval_dataset else [])]
        parts = [list(one.examples) for one in datasets if isinstance(one, ExampleDataset)]
        flat = [example for part in parts for example in part]
        done = settled(
            flat,
            self._scored,
            config=self.config,
            file=Path(str(self.args.output_dir)).parent / REFERENCE_FILE,
            fresh=fresh,
            writes=self.accelerator.is_main_process,
        )
        for dataset, start in zip(datasets, (0, len(parts[0])), strict=False):
            assert isinstance(dataset, ExampleDataset)
            dataset.examples = done[start : start + len(dataset.examples)]

    @torch.no_grad()
    def _scored(self, groups: Sequence[PromptGroup]) -> list[tuple[float, ...]]:
        """Return the log-probabilities of groups' completions under the policy as it is."""
        assert self.model is not None
        cast("Any", self.model).to(self.args.device).eval()
        parts = num_parts(groups, self._layout, self.config.tokens_per_forward)
        scored: list[tuple[float, ...]] = []
        for part in cut(groups, self._shapes(groups), parts):
            flat = self.model(self._packed(part)).double().cpu()
            require_finite(flat.tolist(), "reading the candidates before training")
            numbers = flat.split([len(group.completions) for group in part])
            scored.extend(tuple(one.tolist()) for one in numbers)
        return scored

    def _num_parts(self, groups: Sequence[PromptGroup]) -> int:
        """Return in how many parts all processes run their groups: each forward is a meeting."""
        parts = num_parts(groups, self._layout, self.config.tokens_per_forward)
        if self.accelerator.num_processes == 1:
            return parts
        everyones = self.accelerator.gather(torch.tensor([parts], device=self.args.device))
        return min(len(groups), int(torch.as_tensor(everyones).max()))

    def _without_sync(self, model: torch.nn.Module) -> AbstractContextManager[Any]:
        """Leave the exchange of gradients to the last part, where they are held whole."""
        whole = {DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}
        if self.accelerator.distributed_type in whole:
            return self.accelerator.no_sync(model)
        return nullcontext()

    def _check(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise TrainingError(not_a_number("the loss", self.state.global_step))


def _prepare(model: PreTrainedModel, config: TrainingConfig) -> None:
    """Switch dropout off, and recompute activations in the backward pass if that is wanted."""
    disable_dropout(model)
    if not config.gradient_checkpointing:
        return
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:  # transformers' older name
        model.gradient_checkpointing_enable()


def _collate(examples: list[RankedExample]) -> dict[str, list[RankedExample]]:
    return {EXAMPLES: examples}


def _check_vocabulary(policy: Policy, examples: Sequence[RankedExample]) -> None:
    """Refuse token ids that the policy does not know.

    Raises:
        TrainingError: there is one.
    """
    size = len(cast("Any", policy.model.get_input_embeddings()).weight)
    largest = max(
        max(tokens) for one in examples for tokens in (one.group.prompt, *one.group.completions)
    )
    if largest >= size:
        raise TrainingError(
            f"the candidates hold token id {largest}, but {policy.name} knows {size} tokens; "
            "expected candidates of the policy that is trained: draw them with its tokenizer"
        )
