"""The loop, the optimizer on one flat buffer, the schedule, and checkpoints."""
