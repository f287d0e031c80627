"""Pages for people: of runs, of sweeps, of comparisons and of audits."""
