"""The examples of docs/loader.md as jobs of two processes: unbroken, or killed at steps and started again in fresh processes."""

import hashlib
import json
import multiprocessing
import os
import re
import signal
import sys
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECTION = "## In your training loop"
WORLD = 2
SMALLER = {"batch_size=128": 'batch_size=8, size="32x32", backend="threads"', "EPOCHS = 10": "EPOCHS = 3"}
OPTIONS = {"max_steps=20_000": "max_steps=18, logger=False, enable_progress_bar=False, num_sanity_val_steps=1"}
IMPORTED = ["torch._dynamo", "torch.distributed", "fastfashion.api", "fastfashion.load.loader", "timm.utils"]
FRAMEWORKS = {"accelerate": "accelerate", "Lightning": "lightning", "transformers": "transformers.trainer"}


def parts() -> dict[str, str]:
    """What docs/loader.md has of its section: what all examples begin with, as `start`, and each example by its heading."""
    text = (ROOT / "docs" / "loader.md").read_text(encoding="utf-8").split(f"{SECTION}\n")[1].split("\n## ")[0]
    return dict(part.split("\n", 1) for part in f"start\n{text}".split("\n### "))


def example(name: str) -> str:
    """The code of an example, after what all begin with, with the numbers of a test."""
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", parts()["start"] + parts()[name], re.MULTILINE | re.DOTALL))
    for printed, instead in SMALLER.items():
        assert printed in code, printed
        code = code.replace(printed, instead)
    for printed, instead in OPTIONS.items():
        code = code.replace(printed, instead)
    return code


class Recorder:
    """Writes down with which batch the model is trained at each of its steps; ends this rank by SIGKILL before one of them."""

    def __init__(self, log: Path, kill_at: int | None) -> None:
        self._log, self._kill_at = log, kill_at
        self._batches: dict[str, tuple[int, int, list[int]]] = {}  # epoch, samples, rows by the digest of the pixels

    def watch(self, batch_type: Any) -> None:
        """Remember the rows behind what `normalized` returns."""
        normalized = batch_type.normalized

        def watched(batch: Any, *arguments: Any, **options: Any) -> Any:
            images = normalized(batch, *arguments, **options)
            self._batches[digest(images)] = (batch.epoch, batch.samples, batch.rows.tolist())
            return images

        batch_type.normalized = watched

    def step(self, number: int, images: Any) -> None:
        import torch

        if number == self._kill_at:
            torch.distributed.barrier()  # whatever the other rank still saves is complete
            os.kill(os.getpid(), signal.SIGKILL)
        self.write([number, *self._batches[digest(images)], digest(images)])

    def validated(self, images: Any) -> None:
        self.write({"validated": self._batches[digest(images)][2]})

    def write(self, value: Any) -> None:
        with self._log.open("a") as file:
            file.write(json.dumps(value) + "\n")


def digest(*tensors: Any) -> str:
    return hashlib.sha256(b"".join(each.detach().cpu().contiguous().numpy().tobytes() for each in tensors)).hexdigest()


def make_model(recorder: Recorder) -> Any:
    """A small network that counts its training steps in its own state, which every framework saves and loads with the weights."""
    import torch

    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 8))
            self.register_buffer("steps", torch.tensor(0))

        def forward(self, images: Any) -> Any:
            if self.training:
                recorder.step(int(self.steps), images)
                self.steps += 1
            else:
                recorder.validated(images)
            return self.layers(images)

    return Small()


def train_one_epoch(epoch: int, model: Any, loader: Any, optimizer: Any, loss_fn: Any, args: Any, saver: Any = None) -> dict[str, float]:
    """What timm's training script, which is not in its package, does with a loader, in its order."""
    from timm.utils import AverageMeter

    model.train()
    losses, last_idx = AverageMeter(), len(loader) - 1
    for batch_idx, (input, target) in enumerate(loader):
        loss = loss_fn(model(input), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.update(loss.item(), input.size(0))
        if saver is not None and (batch_idx == last_idx or (batch_idx + 1) % args.recovery_interval == 0):
            saver.save_recovery(epoch, batch_idx=batch_idx)
    return {"loss": losses.avg}


def run(code: str, log: Path, kill_at: int | None) -> None:
    """An example in this process."""
    import torch

    from fastfashion.load import Batch

    recorder = Recorder(log, kill_at)
    recorder.watch(Batch)
    model = make_model(recorder)
    names = {"__name__": "__main__", "model": model, "train_one_epoch": train_one_epoch}
    names["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    exec(compile(code, "<docs/loader.md>", "exec"), names)
    recorder.write({"weights": digest(*model.state_dict().values())})
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def work(code: str, home: Path, life: str, rank: int, port: int, kill_at: int | None) -> None:
    """One rank of a job, with the environment that torchrun gives it; what it prints goes to a file."""
    os.chdir(home)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "LOCAL_WORLD_SIZE": WORLD}
    given = ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "ACCELERATE_USE_CPU": "true"}
    os.environ.update({name: str(value) for name, value in given.items()})
    said = os.open(f"{life}.{rank}.said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(said, number)
    sys.stdout = sys.stderr = os.fdopen(said, "w", buffering=1)
    run(code, Path(f"{life}.{rank}.log"), kill_at)


def live(context: Any, code: str, home: Path, life: str, kill_at: int | None = None, timeout_s: float = 100) -> list[int]:
    """A job to its end: exit status by rank. Where one rank dies, the other is killed, as torchrun does it."""
    from workers import free_port

    port = free_port()
    ranks = [context.Process(target=work, args=(code, home, life, rank, port, kill_at)) for rank in range(WORLD)]
    for rank in ranks:
        rank.start()
    left = {rank.sentinel: rank for rank in ranks}
    try:
        while left:
            ended = [left.pop(sentinel) for sentinel in wait(list(left), timeout_s)]
            if not ended:
                raise TimeoutError(f"{life} did not end")
            for rank in ended:
                rank.join()
            if any(rank.exitcode for rank in ended):
                for other in left.values():
                    other.kill()
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()
    return [rank.exitcode for rank in ranks]


def lives(context: Any, name: str, home: Path, kill_at: list[int]) -> dict[str, list[int]]:
    """Exit statuses of an unbroken job in `home`/whole, and of one in `home`/broken that is killed and started again."""
    code = example(name)
    ended = {"whole": live(context, code, home / "whole", "whole")}
    for number, step in enumerate([*kill_at, None]):
        ended[f"life{number}"] = live(context, code, home / "broken", f"life{number}", step)
    return ended


def main() -> None:
    """`adapting.py EXAMPLE HOME KILL_AT...`: the lives of a job, forked from this process, which has imported the framework."""
    name, home, *steps = sys.argv[1:]
    for module in (*IMPORTED, *(module for start, module in FRAMEWORKS.items() if name.startswith(start))):
        __import__(module)
    print(json.dumps(lives(multiprocessing.get_context("fork"), name, Path(home), list(map(int, steps)))))


if __name__ == "__main__":
    main()
