"""What a run will need, computed from its configuration: memory, FLOPs, hours, disk (docs/plan.md)."""
