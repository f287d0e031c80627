"""Many runs of one experiment: a grid of settings and seeds, baselines, and what they show.

request       what is to be run, from a file or the command line
plan          the cells: grid, seeds, baselines; `dealing` makes tasks of single silos for them
selection     private tuning: random settings, and what releasing the best of them costs
run, cells    from the plan to results; a cell in its folder, by one of several processes
results, store, statistics    what a sweep is, its folder, what its cells show
"""
