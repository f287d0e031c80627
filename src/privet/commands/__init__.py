"""The command line: a module for each family of commands.

cli             puts the app together; errors and exit codes
options         what several commands share
simulate, sweep, audit    the options of a run, and what is printed; `privet.api` does the work
results, lists  report and compare; tasks and strategies
ledger, what_if, policy   for the holder of the data
provision, deployment, jobs    a project, its processes, an administrator's jobs
progress, sweep_progress    what a person sees while rounds and cells go by
"""
