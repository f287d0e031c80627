"""A deep audit: a thousand trainings like a run's, and attacks on what came of them.

`record` is what a report keeps, `claims` what an auditor says; the rest is arithmetic.
"""
