"""Many runs of one experiment: a grid of settings and seeds, baselines, and what they show."""
