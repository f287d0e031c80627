"""The coordinator: rounds, evaluation, checkpoints and the record of a run."""
