"""What one run is doing, from its folder alone: `python -m nemo_forking.status runs/x`. No torch, no NeMo."""

from nemo_forking.status.run import RunStatus, read_run

__all__ = ["RunStatus", "read_run"]
