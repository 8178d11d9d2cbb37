"""Several processes that train one model; torchrun starts them and gives each a rank."""

import atexit
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """The number of this process, and how many there are. A single one is rank 0 of 1."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process prints and writes for all."""
        return self.rank == 0

    def print(self, *values: object) -> None:
        """Print once for all processes."""
        if self.is_main:
            print(*values, flush=True)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of values over all processes; each of them must call this."""
        if self.size > 1:
            distributed.all_reduce(values)
            values = values / self.size
        return values

    def largest(self, value: int, device: torch.device) -> int:
        """Return the largest value of all processes; each of them must call this."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, device=device)
        distributed.all_reduce(shared, distributed.ReduceOp.MAX)
        return int(shared)

    def same(self, value: str) -> str:
        """Return rank 0's value on all ranks; each of them must call this."""
        shared = [value]
        if self.size > 1:
            distributed.broadcast_object_list(shared)
        return shared[0]

    @contextlib.contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the body on rank 0; the other ranks wait and then run it."""
        if self.size == 1:
            yield
            return
        if not self.is_main:
            distributed.barrier()
        yield
        if self.is_main:
            distributed.barrier()

    def share(self, model: nn.Module) -> nn.Module:
        """Return model with gradients averaged over processes, and on cuda batch norms too."""
        if self.size == 1:
            return model
        if next(model.parameters()).device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(model)


ALONE = Ranks()


def join_ranks(device: torch.device) -> Ranks:
    """Return this process's rank; connect to the others if torchrun started it.

    RANK alone says nothing: job schedulers set it too.
    """
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():
        return ALONE
    backend = "nccl" if device.type == "cuda" else "gloo"
    # the others wait while rank 0 packs
    distributed.init_process_group(backend, timeout=timedelta(hours=4))
    atexit.register(distributed.destroy_process_group)
    return Ranks(distributed.get_rank(), distributed.get_world_size())
