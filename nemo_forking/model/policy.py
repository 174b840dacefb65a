"""The policy loss in Megatron's step: an objective of rl/objective.py, and the sums it reports."""

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from nemo_forking.data.batches import MicroBatch
from nemo_forking.model.qwen2 import WeightedLoss
from nemo_forking.rl.objective import STATISTICS, Objective


class PolicyLoss(WeightedLoss):
    """What the objective says of every micro-batch; the objective holds the one global denominator.

    Attributes:
        objective: of the present update.
    """

    objective: Objective

    def set_objective(self, objective: Objective) -> None:
        """Take up the objective of an update, and forget the sums of the one before."""
        self.objective = objective
        self.sums = torch.zeros(len(STATISTICS), dtype=torch.float64, device=torch.cuda.current_device())

    def forward(self, batch: MicroBatch, nll_L: Tensor):
        """(loss, token count, report) as Megatron's schedules want it; see WeightedLoss."""
        self.look(batch, nll_L)
        loss, statistics = self.objective(batch, nll_L)
        for place, name in enumerate(STATISTICS):
            if name in statistics:
                self.sums[place] += statistics[name]
        loss = loss.float()
        return loss, torch.ones((), dtype=torch.int, device=loss.device), {"loss": loss.detach()}

    def statistics(self) -> dict[str, float]:
        """The update's sums over all ranks, by the names of STATISTICS; one all-reduce over the world."""
        last = parallel_state.is_pipeline_last_stage(ignore_virtual=True)
        total = self.sums.clone() if last and parallel_state.get_tensor_model_parallel_rank() == 0 else self.sums * 0
        dist.all_reduce(total)
        return dict(zip(STATISTICS, total.tolist(), strict=True))
