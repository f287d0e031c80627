"""Rounds as they go by, for MLflow, TensorBoard or Weights & Biases.

A tracker gets settings, the figures of each round that `history.jsonl` holds too, and at the end
the summary and the report: no ledger, no record, no key. It has a process of its own, so that
whatever becomes of it, the run goes on.

`following` watches a run and writes to `pipe`, at whose other end a tracker of `tracker`'s kind
(`mlflow`, `tensorboard`, `wandb`) is called.
"""
