"""An audit of what runs and ledgers say: claims with verdicts, and the report of them.

    audit         from paths to a report; the verdict of the whole
    claims        what a claim and a verdict are
    evidence, ledgers           what was given, read strictly; ledgers judged by themselves
    record        record.*      are ledgers, history and summary of the same rounds?
    epsilon       sum.*, budget.target    is the claimed epsilon the one that the entries give?
    compliance    budget.every-moment, policy.*, mechanism.settings, encryption.sums
                  was the policy kept, at every moment, and were the settings?
    leaks         leaks.*       what left the silos besides the model?
    sound         mechanism.sound   does the claim hold for the model and the loss?
    mechanism     mechanism.*   do canaries follow the law of the claimed mechanism?
    steps         mechanism.steps, .dry-run, .evaluation, .code
                  what of training and evaluation can be explained, in the model itself?
    dry_runs, shares, oracle    made-up examples, and what they should come to
    laws          tests of numbers whose law is known
    code          a run's task, made from its settings
    deep          mechanism.deep-*    do attacks on models that were trained alike refute it?
    lower_bounds, spent         what guesses refute; epsilon at other deltas and for persons
    report        `audit.json`

Each module but `lower_bounds`, `spent` and `report` judges what stands beside it, in a function
`claims` (ledgers: `claims_of`, deep: `deep_audit`). Nothing that is audited is written to.
"""

from privet.audits.audit import CHECKS, Check, audit, look_away, verify_report
from privet.audits.evidence import Evidence
from privet.audits.ledgers import SIMULATION
from privet.audits.report import Report

__all__ = [
    "CHECKS",
    "SIMULATION",
    "Check",
    "Evidence",
    "Report",
    "audit",
    "look_away",
    "verify_report",
]
