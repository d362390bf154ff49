"""A Ray cluster to work on: the one there is, or one of our own for as long as we need it."""

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, cast

from bonbon.console import Console
from bonbon.errors import BonbonError, ConfigError, MissingExtraError
from bonbon.pipeline.ray.config import RayEngine

OBJECT_STORE_BYTES = 200 * 2**20
"""Shared memory of a cluster of our own: what travels through it is prompts and scores."""

SECONDS_TO_ANSWER = 10
"""For a cluster that is there."""

_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""Ray reads these when it starts: nobody is told of our use, and the terminal stays ours."""

_LOGGERS = ("ray", "ray.data")
_PRINTING = "_worker_logs_enabled"
_STDERR = 2
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


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
def ray_cluster(engine: RayEngine, console: Console) -> Generator[None]:
    """Be connected to a cluster, and leave it as it was found: one that we started ends.

    A process that is connected already stays so, whatever `engine.address` says.

    Raises:
        MissingExtraError: Ray is not installed.
        BonbonError: there is no cluster at the address.
        ConfigError: the machine cannot hold a single worker.
    """
    require_ray()
    import ray  # noqa: PLC0415 - an optional package

    with _quiet():
        ours = not ray.is_initialized()
        try:
            started = ours and _connect(engine.address)
            _check_room(engine, console, final=started)
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
    """Return where the wanted cluster listens, None for a new one on this machine.

    Ray itself would wait long for a cluster that is gone, and then end the process.
    """
    from ray._private.utils import read_ray_address  # noqa: PLC0415 - an optional package

    if wanted == "local":
        return None
    # What `ray start` on this machine notes down, and a crash leaves behind.
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


def _check_room(engine: RayEngine, console: Console, *, final: bool) -> None:
    """Say how many workers fit; a cluster may grow, a machine of our own (`final`) does not."""
    import ray  # noqa: PLC0415 - an optional package

    nodes: list[dict[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(_workers_on(node, engine) for node in nodes)
    if room >= engine.num_workers:
        return
    worker = f"{engine.cpus_per_worker} CPUs and {engine.gpus_per_worker} GPUs"
    if final and not room:
        found = f"{nodes[0].get('CPU', 0):g} CPUs and {nodes[0].get('GPU', 0):g} GPUs"
        raise ConfigError(
            f"sampling.engine: a worker takes {worker}, but this machine has {found}; lower "
            "cpus_per_worker or gpus_per_worker, or give the address of a cluster"
        )
    wait = "" if final else "; the others start when Ray finds room for them"
    console.say(
        f"  Ray has room for {room} of {engine.num_workers} workers of {worker} each{wait}."
    )


def _workers_on(node: dict[str, float], engine: RayEngine) -> int:
    needs = {"CPU": engine.cpus_per_worker, "GPU": engine.gpus_per_worker}
    fitting = [node.get(name, 0.0) / need for name, need in needs.items() if need]
    return int(min(fitting, default=engine.num_workers))


@contextmanager
def _quiet() -> Generator[None]:
    """Leave the terminal to our own words; a failure reaches the user as an exception."""
    import ray._private.worker as printer  # noqa: PLC0415 - an optional package

    loggers = [logging.getLogger(name) for name in _LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    # Ray's debugger, too, stops the printing of messages like this: there is no setting for it.
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
    """Let signals that have handlers wait until Ray is connected, and keep the handlers.

    An interrupted start of Ray may lose the interrupt, or go on in threads that crash the process
    at its end; and Ray sets a handler of its own for SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():  # signals go to that one
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
    """Hide what Ray's C++ side prints past Python: the level at which it is going to print."""
    sys.stderr.flush()
    kept = os.dup(_STDERR)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), _STDERR)
        yield
    finally:
        os.dup2(kept, _STDERR)
        os.close(kept)
