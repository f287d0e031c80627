"""A server that silos and administrators can reach: Flower's link behind a gate.

gate         who may ask for what; every request is signed
flower       what is used of Flower's SuperLink: nodes, runs, messages, fleet routes
grid         the Flower grid of a job, over the link; wakes those who wait, so that nobody polls
membership   the signed list of parties, and nodes that follow it
jobs         jobs on disk;  runner: works them off;  routes: what administrators ask
messages     what silos ask: the next message, and to take their answer
objects      parts of messages on their way
metrics      figures for Prometheus
viewers      who may look at the live page;  live: what it shows
serving      all of it in one process
"""

from privet.deployment.server.serving import serve

__all__ = ["serve"]
