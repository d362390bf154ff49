"""A Python that has imported bonbon once and forks for every command: the rest is its own process.

Importing torch and transformers takes five seconds of a core, which a test that starts a process
pays every time although it shows something else. `serve` imports once and waits at a socket. What
it forks is as good as a fresh process: a session, streams, environment, folder, signals, limits
and an ending of its own. What a test shows of a start itself needs a start.

Run with a socket's path and `serve`, it serves. Run in place of `python`, with BONBON_WARM in the
environment, it has its arguments run over there, as a launcher's child would run them itself.
"""

import json
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

DOOR = "BONBON_WARM"
"""The environment's name for the path of the socket."""

ESCAPED = "backslashreplace"
IMPORTED = (
    "bonbon.cli.main",
    "bonbon.cli.recipe_commands",
    "bonbon.training.trainer",
    "transformers.models.llama.modeling_llama",  # the toy policy's
)


def ask(
    door: str,
    arguments: Sequence[str],
    streams: Sequence[int],
    *,
    cwd: str,
    env: Mapping[str, str],
) -> tuple[socket.socket, int]:
    """Have arguments of `python` run; return the process's number and what its code comes from.

    The process is killed when what its code comes from is closed.
    """
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(door)
    request = json.dumps({"arguments": list(arguments), "cwd": cwd, "env": dict(env)}).encode()
    socket.send_fds(connection, [f"{len(request):10}".encode()], list(streams))
    connection.sendall(request)
    return connection, int(_received(connection, 10))


def code_from(connection: socket.socket) -> int:
    """Wait for the end of a process and return its code, as `subprocess` gives it."""
    return int(_received(connection, 10))


def _received(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        assert part, "the warm Python has gone"
        data += part
    return data


def serve(door: str) -> list[str]:
    """Fork for whoever asks, until standard input ends; return the arguments in what was forked."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(door)
        listener.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
        os.write(1, b"ready\n")
        while True:
            readable, _, _ = select.select([listener, 0], [], [])
            if 0 in readable:
                os._exit(0)
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return _kept(connection)


def _kept(connection: socket.socket) -> list[str]:
    """Fork once more: one keeps watch and tells the code, in the other this returns."""
    size, streams, _, _ = socket.recv_fds(connection, 10, 3)
    request: dict[str, Any] = json.loads(_received(connection, int(size)))
    process = os.fork()
    if process == 0:
        _become(request, streams)
        return request["arguments"]
    for stream in (0, 1, 2, *streams):
        os.close(stream)
    connection.sendall(f"{process:10}".encode())
    ended = os.pidfd_open(process)
    readable, _, _ = select.select([ended, connection], [], [])
    if ended not in readable:
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    try:
        connection.sendall(f"{os.waitstatus_to_exitcode(status):10}".encode())
    finally:
        os._exit(0)


def _become(request: Mapping[str, Any], streams: Sequence[int]) -> None:
    os.setsid()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    for number, name, buffering, usual in ((1, "stdout", -1, "strict"), (2, "stderr", 1, ESCAPED)):
        stream = open(  # noqa: SIM115
            number, "w", buffering, encoding or None, errors or usual, closefd=False
        )
        setattr(sys, name, stream)
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))


def run(arguments: list[str]) -> None:
    """Do what `python` does with arguments: `-c` and code, `-m` and a module, or a file."""
    import runpy  # noqa: PLC0415 - not by the side that asks

    extra = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:] = [*extra, *(path for path in sys.path[1:] if path not in extra)]
    kind, sys.argv = arguments[0], arguments
    if kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *arguments[2:]]
        exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.path.insert(0, str(Path.cwd()))
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(kind).parent))
        runpy.run_path(kind, run_name="__main__")


def stand_in(arguments: Sequence[str]) -> None:
    """Have arguments run over there and end as they do; signals are handed on."""
    connection, process = ask(
        os.environ[DOOR], arguments, (0, 1, 2), cwd=str(Path.cwd()), env=os.environ
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: os.kill(process, number))
    code = code_from(connection)
    if code < 0:
        with suppress(OSError):  # nobody handles SIGKILL
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    if sys.argv[2:] == ["serve"]:
        import gc
        from importlib import import_module

        for module in IMPORTED:
            import_module(module)
        gc.freeze()  # or each process would look through all of it, a second's work, as it ends
        run(serve(sys.argv[1]))
    else:
        stand_in(sys.argv[1:])
