"""What privacy costs and how it is kept: `accounting` counts, `mechanisms` clip and add noise."""
