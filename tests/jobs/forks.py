"""Commands of edlm in processes of their own, which start at once: forks of a process that has imported everything.

As a script it reads requests, and answers with the exit codes of the processes; minus the signal that killed one.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Launcher:
    """Starts a command in some processes that form a group, as torchrun does; used as a context.

    Args:
        models: A denoiser and a head, of which all code is imported beforehand.
    """

    def __init__(self, models: Path):
        self.models = models

    def __enter__(self) -> "Launcher":
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-W", "ignore", __file__, str(self.models)]
        self._forks = subprocess.Popen(command, env=environment, **options)
        return self

    def __exit__(self, *error: object) -> None:
        self._forks.stdin.close()
        self._forks.wait()

    def run(
        self,
        words: Sequence[str],
        log: Path,
        processes: int = 1,
        kill_after: float | None = None,
        kill_at_sync: int | None = None,
    ) -> list[int]:
        """Exit codes of all processes.

        Args:
            words: After ``edlm``.
            log: Gets what they print.
            processes: Number of processes.
            kill_after: Seconds until all of them get SIGKILL.
            kill_at_sync: The first process is killed when it is about to put a file on disk for the n-th time.
        """
        request = {"words": [*words], "log": str(log), "processes": processes}
        request |= {"kill_after": kill_after, "kill_at_sync": kill_at_sync}
        self._forks.stdin.write(json.dumps(request) + "\n")
        self._forks.stdin.flush()
        return json.loads(self._forks.stdout.readline())


def _serve() -> None:
    import torch

    from edlm import EnergySampler, load_denoiser, load_energy
    from edlm.commands.parsing import parse

    torch.set_num_threads(1)
    for command in (["generate", "--output", "rows.jsonl"], ["evaluate"]):
        parse(command)
    denoiser, head = load_denoiser(f"{sys.argv[1]}/denoiser"), load_energy(f"{sys.argv[1]}/head")
    EnergySampler(denoiser, head, num_steps=1).generate("", 1)
    for line in sys.stdin:
        request = json.loads(line)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        pids = [_fork(request, rank, port) for rank in range(request["processes"])]
        if request["kill_after"] is not None:
            time.sleep(request["kill_after"])
            for pid in pids:  # also one that has ended: nobody has waited for it yet
                os.kill(pid, signal.SIGKILL)
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]), flush=True)


def _fork(request: dict, rank: int, port: int) -> int:
    if pid := os.fork():
        return pid
    code = 1
    try:
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        if request["processes"] > 1:
            group = {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port, "MASTER_ADDR": "127.0.0.1"}
            group |= {"WORLD_SIZE": request["processes"], "LOCAL_WORLD_SIZE": request["processes"]}
            os.environ.update({name: str(value) for name, value in group.items()}, ACCELERATE_USE_CPU="true")
        if request["kill_at_sync"] is not None and rank == 0:
            _die_at_sync(request["kill_at_sync"])
        from edlm.cli import main

        code = main(request["words"])
        sys.stdout.flush()
    finally:
        os._exit(code)


def _die_at_sync(number: int) -> None:
    sync, calls = os.fsync, 0

    def counted(file: int) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(file)

    os.fsync = counted


if __name__ == "__main__":
    _serve()
