"""What a server of forks loads before it forks: seconds that each process would spend by itself.

Nothing of a task's own code: a silo must be the first to import that.
"""

import opacus
import scipy.signal
import torch._dynamo

import silo_workers
from privet.client import task_code
from privet.privacy.mechanisms import grid, per_example
from privet.tasks import digits

__all__ = ["digits", "grid", "opacus", "per_example", "scipy", "silo_workers", "torch"]

task_code._distributions()
task_code._own()
