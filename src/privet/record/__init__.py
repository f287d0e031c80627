"""The run folder: what a run wrote down, and the one way to read it."""
