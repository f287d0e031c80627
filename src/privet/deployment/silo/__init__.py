"""A silo's process: it takes messages from the server and answers with the installed ClientApp.

connection   Flower's fleet protocol, and nothing of Flower's SuperNode
orders       jobs that an administrator signed; nothing else is done
worker       the warm process in which the ClientApp runs
metrics      figures for Prometheus, on the silo's own machine
serving      all of it, until a signal ends it
"""

from privet.deployment.silo.serving import serve

__all__ = ["serve"]
