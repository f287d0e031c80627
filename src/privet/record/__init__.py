"""The run folder: what a run wrote down, and the one way to read it.

    folder      RunFolder: writes rounds, checkpoint, model and summary; goes back to a checkpoint
    history     RoundRecord, a line of `history.jsonl`; all rounds; what is new in a history
    summary     RunSummary, `summary.json`
    schema      how both are read: `strictly` (audits, resuming) or `mended` (pages, trackers)
    reading, run     a whole folder, whatever is in it, as a page reads it: a Run

Whoever wants a round or an outcome asks here: no other room parses these files.
"""
