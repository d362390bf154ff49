"""The Ray cluster to work on: an existing one, or a new one that ends with the stage."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, Protocol, cast, runtime_checkable

from bonbon.console import Console
from bonbon.errors import BonbonError, ConfigError, MissingExtraError

OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory of a new cluster: only prompts and scores travel through it."""

SECONDS_TO_ANSWER = 10
"""How long an existing cluster may take to answer."""

_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""Environment variables that Ray reads when it starts: no usage statistics, no log output."""

_LOGGERS = ("ray", "ray.data")
_PRINTING = "_worker_logs_enabled"
_STDERR = 2
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@runtime_checkable
class WorkerPool(Protocol):
    """The workers that a cluster has to run."""

    address: str | None
    num_workers: int
    cpus_per_worker: float | int
    gpus_per_worker: float | int


def require_ray() -> None:
    """Import Ray and its data library, which sets its loggers up.

    Raises:
        MissingExtraError: they are not installed.
    """
    try:
        import_module("ray.data")
    except ImportError as error:
        raise MissingExtraError(
            f"sampling.engine ray needs Ray with its data library ({error}); run "
            "`pip install 'bonbon-align[ray]'`"
        ) from error


@contextmanager
def ray_cluster(pool: WorkerPool, console: Console) -> Generator[None]:
    """Connect to a cluster; shut it down afterwards if it was started here.

    A process that is connected already keeps its cluster, whatever `pool.address` says.

    Raises:
        MissingExtraError: Ray is not installed.
        BonbonError: there is no cluster at the address.
        ConfigError: the machine is too small for a single worker.
    """
    require_ray()
    import ray  # noqa: PLC0415 - an optional package

    with _quiet():
        ours = not ray.is_initialized()
        try:
            started = ours and _connect(pool.address)
            _check_resources(pool, console, final=started)
            yield
        finally:
            if ours:
                ray.shutdown()


def _connect(wanted: str | None) -> bool:
    """Connect to a cluster, or start one on this machine; return whether it is new."""
    import ray  # noqa: PLC0415 - an optional package

    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    address = _address(wanted or os.environ.get("RAY_ADDRESS"))
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        with _muted_stderr(), _undisturbed():
            ray.init(
                "local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet
            )
        return True
    try:
        with _muted_stderr(), _undisturbed():
            ray.init(address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BonbonError(f"cannot use the Ray cluster at {address}: {reason}") from error
    return False


def _address(wanted: str | None) -> str | None:
    """Return the address of the wanted cluster, None for a new one on this machine.

    Without this check Ray waits a long time for a missing cluster, and then ends the process.
    """
    from ray._private.utils import read_ray_address  # noqa: PLC0415 - an optional package

    if wanted == "local":
        return None
    # `ray start` on this machine writes the address to a file, which remains after a crash.
    address = cast("str | None", read_ray_address()) if wanted in {None, "auto"} else wanted
    if address is not None and _answers(address):
        return address
    if wanted is None:
        return None
    raise BonbonError(
        f"no Ray cluster answers at {address or wanted}; start one with `ray start --head`, or set "
        "sampling.engine.address to `local` to use this machine alone"
    )


def _answers(address: str) -> bool:
    host, _, port = address.rpartition("://")[2].rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=SECONDS_TO_ANSWER):
            return True
    except (OSError, ValueError):
        return False


def _check_resources(pool: WorkerPool, console: Console, *, final: bool) -> None:
    """Say how many workers fit; a new cluster on this machine (`final`) does not grow."""
    import ray  # noqa: PLC0415 - an optional package

    nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    capacity = sum(_workers_on(node, pool) for node in nodes)
    if capacity >= pool.num_workers:
        return
    worker = f"{pool.cpus_per_worker} CPUs and {pool.gpus_per_worker} GPUs"
    if final and not capacity:
        available = f"{nodes[0].get('CPU', 0):g} CPUs and {nodes[0].get('GPU', 0):g} GPUs"
        raise ConfigError(
            f"sampling.engine: a worker takes {worker}, but this machine has {available}; lower "
            "cpus_per_worker or gpus_per_worker, or give the address of a cluster"
        )
    wait = "" if final else "; the others start when the cluster has resources for them"
    console.say(
        f"  The Ray cluster fits {capacity} of {pool.num_workers} workers of {worker} each{wait}."
    )


def _workers_on(node: dict[str, float], pool: WorkerPool) -> int:
    needs = {"CPU": pool.cpus_per_worker, "GPU": pool.gpus_per_worker}
    fitting = [node.get(name, 0.0) / need for name, need in needs.items() if need]
    return int(min(fitting, default=pool.num_workers))


@contextmanager
def _quiet() -> Generator[None]:
    """Silence Ray's loggers and its printer; a failure reaches the user as an exception."""
    import ray._private.worker as printer  # noqa: PLC0415 - an optional package

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    # There is no setting for it; Ray's debugger stops its messages in the same way.
    printing = getattr(printer, _PRINTING, True)
    setattr(printer, _PRINTING, False)
    try:
        yield
    finally:
        setattr(printer, _PRINTING, printing)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def _undisturbed() -> Generator[None]:
    """Delay signals until Ray is connected, and keep their handlers.

    If the start of Ray is interrupted, the interrupt may get lost, or Ray's threads continue and
    crash the process at its end. Ray also sets a handler for SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():  # only that one gets signals
        yield
        return
    received: list[int] = []
    handlers = {
        number: handler for number in _ENDING if callable(handler := signal.getsignal(number))
    }
    for number in handlers:
        signal.signal(number, lambda number, _: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    for number in received:
        signal.raise_signal(number)


@contextmanager
def _muted_stderr() -> Generator[None]:
    """Hide what Ray's C++ code prints directly: its log level at start."""
    sys.stderr.flush()
    kept = os.dup(_STDERR)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
