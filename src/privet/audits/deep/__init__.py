"""A deep audit: a thousand trainings like a run's, and attacks on what came of them.

`claims` says what can be trained again and judges it, `training` trains, `attacks` scores and
counts, `record` is what a report keeps.
"""
