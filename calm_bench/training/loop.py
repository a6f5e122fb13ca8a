"""One training loop for codecs and systems, on Lightning Fabric: resumable and exact.

A run lives in <home>/training/<name>/: state.pt (replaced atomically every few minutes) and
log.jsonl. What it makes goes to models/<name>/: weights, what names them into config.yaml, and
facts into card.md.
"""

import hashlib
import json
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_flatten
from torch.utils.flop_counter import FlopCounterMode

from calm_bench.core import files
from calm_bench.core.device import refuse_larger
from calm_bench.errors import InputError
from calm_bench.seeds import content_hash, derive_seed
from calm_bench.training.objective import Objective, TrainingConfig, TrainingError, seeded
from calm_bench.training.sharding import clone, load_module, load_optimizer, unsharded, whole

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
WITHOUT_EFFECT = {"checkpoint_minutes", "log_every", "keep_every"}  # on the weights
_LOST = "restore it, delete the file to go on without its losses, or start over with --fresh"


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second acts as it always did.

    Outside the main thread, where Python allows no handlers, nothing is caught.
    """
    asked, old = threading.Event(), dict[signal.Signals, Any]()

    def restore() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)
        old.clear()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        restore()

    if threading.current_thread() is threading.main_thread():
        old.update({number: signal.signal(number, ask) for number in SIGNALS})
    try:
        yield asked
    finally:
        restore()


def means(logs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each number over all logs; one that lacks it adds nothing."""
    sums: dict[str, float] = {}
    for log in logs:
        for key, value in log.items():
            sums[key] = sums.get(key, 0.0) + value
    return {key: value / len(logs) for key, value in sums.items()}


def _scalars(record: Mapping[str, Any], prefix: str = "training") -> Iterator[tuple[str, float]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, key)
        elif isinstance(value, int | float):
            yield f"{prefix}/{key}", float(value)


class RunLog:
    """One JSON line per record in <folder>/log.jsonl, in step with the saved state.

    Each ends with a checksum of it and of its number, by which one that was changed, removed or
    moved is found; older logs have none.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "log.jsonl"
        self._lines: int | None = None  # how many there are, once somebody asks
        self._board: Any = None  # made by the first record: who only reads leaves no files

    def __len__(self) -> int:
        if self._lines is None:
            self._lines = len(files.committed_lines(self.path))
        return self._lines

    def add(self, step: int, record: Mapping[str, Any]) -> None:
        """Append a record, and its numbers to TensorBoard."""
        number = len(self) + 1
        files.append_lines(self.path, _log_line({"step": step, **record}, number))
        self._lines = number
        if find_spec("tensorboard") is None:
            return
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(self.path.with_name("tensorboard")))
        with files.disk_errors(self.path):
            for name, value in _scalars(record):
                self._board.add_scalar(name, value, step)
            self._board.flush()

    def records(self) -> list[dict[str, Any]]:
        """Every whole line; a kill may have left half of one.

        Raises:
            TrainingError: If one is damaged.
        """
        found = []
        for number, line in enumerate(files.committed_lines(self.path), 1):
            try:
                body = files.unsealed(line, number, str(number))
                record = files.json_value(body, number)
            except InputError:
                record = None
            if not _is_record(record):
                raise TrainingError(f"{self.path}:{number} is damaged: {_LOST}")
            found.append(record)
        return found

    def cut(self, step: int, least: int = 0) -> None:
        """Forget what was logged after a step.

        Raises:
            TrainingError: If a line is damaged, or fewer are there than the `least` that were.
        """
        if least and not self.path.is_file():
            logger.warning("%s is gone: going on without its losses", self.path)
        if self.path.is_file():
            kept = [record for record in self.records() if record["step"] <= step] if step else []
            if len(kept) < least:
                raise TrainingError(f"{self.path} has {len(kept)} of {least} lines: {_LOST}")
            lines = (_log_line(record, number) for number, record in enumerate(kept, 1))
            files.replace(self.path, b"".join(lines))
            self._lines = len(kept)

    def last_validation(self) -> dict[str, float]:
        """The numbers of the last validation; empty if there was none."""
        found = [record["validation"] for record in self.records() if "validation" in record]
        return dict(found[-1]) if found else {}


def _log_line(record: Mapping[str, Any], number: int) -> bytes:
    return files.sealed(json.dumps(record).encode(), str(number)) + b"\n"


def _is_record(record: Any) -> bool:
    """Whether it says what was found after which step, in numbers."""
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return False
    losses = {"validation": {}, "processor_seconds": None, **record}
    found = losses.pop("validation")
    return isinstance(found, dict) and all(
        isinstance(value, int | float) for value in (*losses.values(), *found.values())
    )


def _checksum(state: Mapping[str, Any]) -> str:
    """A hash of all that a state holds, to the bit."""
    leaves, shape = tree_flatten(state)
    digest = hashlib.sha256(repr(shape).encode())
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            digest.update(
                leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            )
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


@dataclass
class Progress:
    """Where a run stands: steps done and seconds computed, over all starts; FLOPs of one step.

    `processor_seconds` are of all threads of this rank, validation apart.
    """

    step: int = 0
    seconds: float = 0.0
    flops: int = 0
    processor_seconds: float = 0.0


def parameter_groups(objective: Objective, config: TrainingConfig) -> list[dict[str, Any]]:
    """Matrices decay, vectors (norms, biases, scales) do not; what was given has its own rate."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in objective.module.named_parameters():
        if parameter.requires_grad:
            key = name in objective.given, parameter.ndim >= 2
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": config.weight_decay if decays else 0.0,
            "share": config.start_rate if given else 1.0,
        }
        for (given, decays), parameters in sorted(groups.items(), reverse=True)
    ]


class LossModule(nn.Module):
    """The loss as a module's forward: the call that ranks synchronise and Fabric autocasts."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.module = objective.module
        self.objective = objective

    def forward(
        self, batch: Callable[[], Mapping[str, Tensor]], step: int
    ) -> tuple[Tensor, dict[str, float]]:
        """The objective's loss and logs.

        The batch comes in a call, because Fabric rounds every tensor that it finds in arguments: at
        `bf16-mixed` audio and latents would have 8 bits.
        """
        return self.objective.loss(batch(), step)


class Trainer:
    """Takes an objective through its steps."""

    def __init__(
        self,
        objective: Objective,
        config: TrainingConfig,
        folder: Path,
        fabric: Fabric,
        *,
        global_batch: bool = False,
        of: Any = None,
    ) -> None:
        """Set up optimiser and averages; nothing is loaded or written to the folder yet.

        The objective is moved to the device of a launched Fabric. With `global_batch` ranks share
        the batches of a step, which `accumulate` counts, and take the step of one process; else
        each rank has as many of its own. A state is resumed only by a trainer of the same recipe,
        data, and whatever else it is `of`: shape and codec.
        """
        self.objective, self.config, self.folder, self.fabric = objective, config, folder, fabric
        self.parts = config.accumulate // (fabric.world_size if global_batch else 1)
        objective.batches = self.parts * fabric.world_size
        self.forward = fabric.setup_module(LossModule(objective))  # shards parameters, if it shards
        groups = parameter_groups(objective, config)
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=1e-8)
        self.optimizer: Any = fabric.setup_optimizers(optimizer)
        self.adversary_optimizer: Any = None
        if objective.adversary is not None:
            objective.adversary.to(fabric.device)
            self.adversary_optimizer = torch.optim.AdamW(
                objective.adversary.parameters(), lr=config.learning_rate, betas=(0.5, 0.9)
            )
        self.average = clone(objective.module.state_dict())
        self.progress = Progress()
        self.log = RunLog(folder)
        self.keep: Callable[[int, Mapping[str, Tensor]], None] | None = None  # if `keep_every`
        recipe = config.model_dump(mode="json", exclude=WITHOUT_EFFECT)
        self.identity = content_hash(recipe, objective.origin, objective.facts(), of)

    @property
    def state_path(self) -> Path:
        """The file that a resumed run starts from."""
        return self.folder / "state.pt"

    def save(self) -> None:
        """Write the state beside the old one and swap them: a kill leaves either one whole."""
        state: dict[str, Any] = {
            "identity": self.identity,
            **asdict(self.progress),
            "module": whole(self.objective.module.state_dict()),
            "average": whole(self.average),
            "optimizer": whole(self.optimizer.state_dict()),
        }
        if not self.fabric.is_global_zero:
            return
        if self.objective.adversary is not None:
            state["adversary"] = self.objective.adversary.state_dict()
            state["adversary_optimizer"] = self.adversary_optimizer.state_dict()
        state["log_lines"] = len(self.log)
        with files.replacing(self.state_path) as file:
            try:
                torch.save({**state, "check": _checksum(state)}, file)
            except RuntimeError as error:  # torch meets what the disk refused once more, its way
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise

    def resume(self) -> bool:
        """Load the last state if there is one; the log is cut back to it, or to nothing.

        Raises:
            TrainingError: If the state cannot be read or belongs to another recipe.
        """
        if not files.is_there(self.state_path):
            if self.fabric.is_global_zero and len(self.log):
                logger.warning("nothing was saved in %s: the training begins anew", self.folder)
                self.log.cut(0)
            return False
        try:
            state = torch.load(self.state_path, map_location=self.fabric.device, weights_only=True)
            check = state.pop("check", None)  # an older state has none
            if check is not None and check != _checksum(state):
                raise ValueError("the checksum does not fit")
            identity = state["identity"]
        except Exception as error:  # torch raises whatever the bytes lead it to
            raise TrainingError(
                f"{self.state_path} is damaged: restore it, or start over with --fresh"
            ) from error
        if identity != self.identity:
            raise TrainingError(
                f"{self.state_path} belongs to another training than this one: of another recipe, "
                "shape, codec or other recordings; repeat the command with what it began with, or "
                "start over with --fresh"
            )
        try:
            self._take(state)
        except (LookupError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise TrainingError(
                f"{self.state_path} does not fit this model: restore it, or start over with --fresh"
            ) from error
        if self.fabric.is_global_zero:
            self.log.cut(state["step"], state.get("log_lines", 0))  # older states have none
        return True

    def _take(self, state: Mapping[str, Any]) -> None:
        load_module(self.objective.module, state["average"])
        self.average = clone(self.objective.module.state_dict())
        load_module(self.objective.module, state["module"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.objective.adversary is not None:
            self.objective.adversary.load_state_dict(state["adversary"])
            self.adversary_optimizer.load_state_dict(state["adversary_optimizer"])
        known = asdict(Progress())  # of which an older state may lack some
        self.progress = Progress(**{name: state.get(name, known[name]) for name in known})

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averaged weights into the module for a while."""
        module = self.objective.module
        current = clone(module.state_dict())
        module.load_state_dict(self.average)
        module.eval()
        try:
            with unsharded(self.forward):
                yield
        finally:
            module.load_state_dict(current)
            module.train()

    def _check(self, value: Tensor, step: int, what: str) -> float:
        number = float(value.detach())
        if not math.isfinite(number):
            raise TrainingError(
                f"the {what} of step {step} is {number} (batch {step} of seed {self.config.seed}); "
                f"the last good state is in {self.state_path}"
            )
        return number

    def _batch(self, index: int, size: int) -> dict[str, Tensor]:
        """A batch where the module is, its numbers in the type of the parameters."""
        to = next(self.objective.module.parameters())
        return {
            key: value.to(to.device, to.dtype if value.is_floating_point() else value.dtype)
            for key, value in self.objective.batch(index, size).items()
        }

    def step(self) -> dict[str, float]:
        """Take one optimiser step and return its logs."""
        step, config = self.progress.step, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate(step) * group["share"]
        logged = []
        for part in range(self.parts):
            index = (step * self.parts + part) * self.fabric.world_size + self.fabric.global_rank
            batch = self._batch(index, config.batch_size)
            last = part == self.parts - 1
            waiting = self.fabric.no_backward_sync(self.forward, enabled=not last)
            with waiting, self._counting_flops():
                with seeded(derive_seed("training", config.seed, index, "dropout")):
                    loss, logs = self.forward(lambda batch=batch: batch, index)
                logs = {"loss": self._check(loss, index, "loss"), **logs}
                self.fabric.backward(loss / self.parts)
            logged.append(logs)
        scaling: Any = self.fabric.strategy.precision
        scaling.unscale_gradients(self.optimizer.optimizer)  # at 16-mixed they are 2^16 as large
        parameters = self.objective.module.parameters()
        norm = whole(nn.utils.clip_grad_norm_(parameters, config.clip))  # over all ranks
        if getattr(scaling, "scaler", None) is None:  # which leaves out a step beyond float16
            self._check(norm, step, "gradient norm")
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._step_adversary(index)
        self._follow_average(step)
        self.progress.step += 1
        return {**means(logged), "gradient": float(norm)}

    def refuse_large_batch(self) -> None:
        """Refuse a batch that cannot fit: what backward keeps of each clip, seen on one and two.

        A loss may move codebooks, which are put back; judges keep what they heard, so trainings
        that have them are not looked at.

        Raises:
            MachineError: If the device has less memory; the message has both numbers.
        """
        size, device, module = self.config.batch_size, self.fabric.device, self.objective.module
        if size <= 2 or self.objective.adversary is not None:
            return
        state = clone(module.state_dict())
        of_one, of_two = self._kept_for_backward(1), self._kept_for_backward(2)
        module.load_state_dict(state)
        what = f"a batch of {size:,} keeps what its gradient needs: that takes"
        refuse_larger(max(0, of_two - of_one) * size, str(device), what)

    def _kept_for_backward(self, size: int) -> int:
        own = {value.untyped_storage().data_ptr() for value in self.objective.module.parameters()}
        kept: dict[int, int] = {}

        def keep(value: Tensor) -> Tensor:
            storage = value.untyped_storage()
            with suppress(RuntimeError):  # inside a transform of torch.func a tensor has no storage
                if storage.data_ptr() not in own:
                    kept[storage.data_ptr()] = storage.nbytes()
            return value

        batch = self._batch(0, size)
        with saved_tensors_hooks(keep, lambda value: value), seeded(0):
            loss, _ = self.forward(lambda: batch, 0)
        del loss
        return sum(kept.values())

    @contextmanager
    def _counting_flops(self) -> Iterator[None]:
        """Count the matrix products of a run's first batch, forwards and backwards, all ranks."""
        if self.progress.flops:
            yield
            return
        with FlopCounterMode(display=False) as counter:
            yield
        self.progress.flops = counter.get_total_flops() * self.objective.batches

    def _step_adversary(self, step: int) -> None:
        loss = self.objective.second_loss()
        if loss is None:
            return
        self._check(loss, step, "adversary's loss")
        self.adversary_optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        assert self.objective.adversary is not None
        for parameter in self.objective.adversary.parameters():
            if parameter.grad is not None:
                gradient: Any = self.fabric.all_reduce(parameter.grad)  # the mean over ranks
                parameter.grad = gradient
        self.adversary_optimizer.step()

    @torch.no_grad()
    def _follow_average(self, step: int) -> None:
        # Early averages forget fast, so that the random start does not linger.
        decay = min(self.config.ema, (1 + step) / (10 + step))
        for key, value in self.objective.module.state_dict().items():
            if value.is_floating_point():
                self.average[key].mul_(decay).add_(value, alpha=1 - decay)
            else:
                self.average[key].copy_(value)

    def _over_ranks(self, logs: dict[str, float]) -> dict[str, float]:
        if self.fabric.world_size == 1:
            return logs
        found: list[dict[str, float]] = [{} for _ in range(self.fabric.world_size)]
        torch.distributed.all_gather_object(found, logs)
        return means(found)

    def _on_any_rank(self, asked: bool) -> bool:
        """Whether a stop was asked for on any rank: all stop after the same step."""
        if self.fabric.world_size == 1:
            return asked
        ranks: Any = self.fabric.all_reduce(
            torch.tensor(float(asked), device=self.fabric.device), reduce_op="sum"
        )
        return bool(ranks > 0)

    def _log(self, record: Mapping[str, Any]) -> None:
        if self.fabric.is_global_zero:
            took = {
                "seconds": round(self.progress.seconds, 1),
                "processor_seconds": round(self.progress.processor_seconds, 1),
            }
            self.log.add(self.progress.step, {**took, **record})

    def validate(self) -> dict[str, float]:
        """Held-out numbers of the averaged weights, logged."""
        with self.averaged(), torch.no_grad():
            numbers = self.objective.validate()
        self._log({"validation": numbers})
        return numbers

    def exported(self) -> dict[str, Tensor]:
        """The averaged weights to ship, whole on every rank."""
        with self.averaged():  # which puts the other weights back in place: copy before it does
            weights: dict[str, Tensor] = whole(clone(self.objective.export()))
        return weights

    def train(self, *, until: int | None = None) -> Iterator[dict[str, float]]:
        """Take the remaining steps, yielding the mean logs of each stretch of `log_every`.

        The schedule is that of the whole run, though it stop before step `until`.
        """
        stop = min(self.config.steps, until or self.config.steps)
        if self.progress.step < stop:
            self.refuse_large_batch()
        saved, stretch = time.monotonic(), list[dict[str, float]]()
        with stop_signals() as asked:
            while self.progress.step < stop:
                begun, busy = time.monotonic(), time.process_time()
                stretch.append(self.step())
                self.progress.seconds += time.monotonic() - begun
                self.progress.processor_seconds += time.process_time() - busy
                step = self.progress.step
                if self._on_any_rank(asked.is_set()):
                    stop = step
                if step % self.config.log_every == 0 or step == stop:
                    logs, stretch = self._over_ranks(means(stretch)), []
                    self._log(logs)
                    yield logs
                if step % self.config.validate_every == 0 or step == self.config.steps:
                    self.validate()
                if self.keep is not None and step % self.config.keep_every == 0:
                    weights = self.exported()
                    if self.fabric.is_global_zero:
                        self.keep(step, weights)
                due = time.monotonic() - saved > 60 * self.config.checkpoint_minutes or step == stop
                # Sharded weights are gathered by all ranks at once: the first one's clock decides.
                if self.fabric.broadcast(due):
                    self.save()
                    saved = time.monotonic()
        if self.progress.step < self.config.steps:
            logger.info("stopped at step %s of %s", self.progress.step, self.config.steps)
