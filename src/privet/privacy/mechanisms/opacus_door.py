"""All of Opacus that is used here, imported once and without its side effects.

Importing Opacus sets up the root logger, which is left as it was.
"""

from __future__ import annotations

from privet.privacy.quiet import untouched_root_logger

with untouched_root_logger():
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.functorch import prepare_layer
    from opacus.layers import DPGRU, DPLSTM, DPRNN
    from opacus.optimizers import DPOptimizer
    from opacus.validators import ModuleValidator

RECURRENT = (DPRNN, DPLSTM, DPGRU)
"""Layers that consist of others which Opacus knows."""

__all__ = ["RECURRENT", "DPOptimizer", "GradSampleModule", "ModuleValidator", "prepare_layer"]
