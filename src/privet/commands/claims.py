"""What each key does to what is promised of the records, in words.

"table.*" stands for the keys of a table that have no words of their own, "*" for those at the top.
"""

from __future__ import annotations

from collections.abc import Mapping

_NONE = "-"
_ONLY_WHERE = "-; it says where something is"
_WHO_SEES = "epsilon stays; who can see an update changes"
_LIMIT = "a job that would spend more is refused"
_INPUTS = "declared; what is left out is read from records, which epsilon does not cover"
_READING = "-; it says how cells are read"

_EXPERIMENT = {
    "*": _NONE,
    "task": "a task whose inputs depend on other records is refused with [privacy]",
    "model": "one that mixes the examples of a batch is refused with [privacy]",
    "rounds": "each spends; with privacy.epsilon the noise grows instead",
    "seed": "in a simulation noise follows from it: whoever knows it can take the noise off",
    "data": "what the inputs are made of; see the options of the task",
    "start.*": _NONE,
    "start.file": "epsilon says nothing of the records that these weights have seen",
    "start.seen": "stands beside the claim",
    "federation.*": _NONE,
    "federation.silos": "fewer records a silo: more noise for the same epsilon",
    "federation.partition": "decides which records are one silo's",
    "federation.participation": "a silo that is not asked spends nothing",
    "federation.records": "is what its writer says, and never counted",
    "federation.local": "what stays is noised like the rest: the claim covers both",
    "training.*": _NONE,
    "training.epochs": "more steps: more is spent, or more noise",
    "training.steps": "more steps: more is spent, or more noise",
    "training.batch_size": "larger: a record is drawn more often, which spends more for each step",
    "training.class_weights": "declared, not learned: nothing; it is applied before clipping",
    "strategy.name": "refused with [privacy] if it needs losses, with [encryption] if no mean",
    "privacy.unit": "says whose presence the claim is about",
    "privacy.epsilon": "is the claim: the noise is made to fit it",
    "privacy.noise_multiplier": "epsilon follows from it, and from how often records are used",
    "privacy.delta": "is part of the claim: the same run has a larger epsilon at a smaller delta",
    "privacy.clip": "epsilon stays: noise grows with it",
    "privacy.calibrate": '"shared" gives some silos more noise than their epsilon needs',
    "privacy.on_budget": "no silo's budget is exceeded, either way",
    "privacy.uncovered_preprocessing": "true: the claim leaves out what preprocessing tells",
    "encryption.*": _WHO_SEES,
    "encryption.profile": "epsilon stays; values are rounded more coarsely or finely",
    "evaluation.*": "what silos release of it is charged as their policies say",
    "validation.*": "these records are nobody's: no epsilon is about them",
}
_TABLE = {
    "data.*": _READING,
    "data.target": _NONE,
    "data.file": _ONLY_WHERE,
    "data.files": _ONLY_WHERE,
    "data.test_file": "its rows are tested on, and no epsilon is about them",
    "data.test_fraction": "no epsilon is about rows that are tested on",
    "data.silo": "decides which records are one silo's",
    "data.person": "of each person one row is used, so that epsilon is a person's",
    "data.numeric": _INPUTS,
    "data.categorical": _INPUTS,
    "data.categories": _INPUTS,
    "data.classes": _INPUTS,
    "data.ranges": _INPUTS,
    "data.exclude": _NONE,
    "data.objective": _NONE,
    "data.unit": _NONE,
    "data.event": _NONE,
    "data.intervals": _NONE,
    "data.missing": _NONE,
}
_IMAGES = {
    "data.*": _INPUTS,
    "data.folder": _ONLY_WHERE,
    "data.folders": _ONLY_WHERE,
    "data.test_folder": "its records are tested on, and no epsilon is about them",
    "data.test_fraction": "no epsilon is about records that are tested on",
    "data.size": _NONE,
    "data.base": "no epsilon is about what it was trained on; it must not be these records",
    "data.weights": "as data.base",
    "data.base_digest": "another base is refused",
    "data.cache": "holds what the base makes of the records: as private as they are",
}
_OF_FOLDERS = ("data.folder", "data.folders", "data.test_folder", "data.size", "data.weights")
_TEXT = {
    **{key: words for key, words in _IMAGES.items() if key not in _OF_FOLDERS},
    "data.file": _ONLY_WHERE,
    "data.files": _ONLY_WHERE,
    "data.silo": "decides which records are one silo's",
    "data.test_file": "its records are tested on, and no epsilon is about them",
    "data.lora_rank": _NONE,
    "data.lora_alpha": _NONE,
    "data.lora_targets": _NONE,
}
_POLICY = {
    "*": _NONE,
    "data.NAME.*": "a job that it does not name is refused",
    "data.NAME.attempts_per_round": "each attempt is charged",
    "data.NAME.largest_order_days": "an old order ends",
    "data.NAME.approval": "-; a person decides",
    "data.NAME.budget.*": _LIMIT,
    "data.NAME.budget.epsilon": "is the claim of the data set, over all jobs and for ever",
    "data.NAME.budget.delta": "is part of that claim",
    "data.NAME.training.*": "a job that asks for another is refused",
    "data.NAME.training.plain": "true: no epsilon holds",
    "data.NAME.training.keep_own_parts": _NONE,
    "data.NAME.training.uncovered_preprocessing": "true: the claim leaves out what it tells",
    "data.NAME.sending.*": _WHO_SEES,
    "data.NAME.sending.records_public": "true: their number is told, which epsilon does not cover",
    "data.NAME.sending.most_failures": "bounds what failures tell, which epsilon does not cover",
    "data.NAME.metrics.NAME.*": '"exact": epsilon does not cover it; "noised": it is charged',
    "data.NAME.hours.*": "-; a job outside is refused",
}
_SILO = {
    "*": _ONLY_WHERE,
    "project_key": "who may say who belongs to the project",
    "policy": "holds the limits",
    "ledger": "holds what was spent: without it nothing runs",
    "dataset": "under this name the ledger counts",
    "datasets.NAME.*": "the description decides which inputs exist; no record does",
    "canaries": "for the audit, which tests the claim",
    "share": "for trying out",
}
_PARTY = {"*": _NONE, "project_key": "who may say who belongs to the project"}

CLAIMS: Mapping[str, Mapping[str, str]] = {
    "The experiment": _EXPERIMENT,
    'The experiment, [data] with task = "table"': _TABLE,
    'The experiment, [data] with task = "images"': _IMAGES,
    'The experiment, [data] with task = "text"': _TEXT,
    "The experiment, options of [strategy]": {
        "strategy.*": "-; it works on what silos sent",
        "strategy.weighting": '"examples": each silo tells how many records it has',
    },
    "A data holder's policy (policy.toml)": _POLICY,
    "A silo (silo.toml)": _SILO,
    "The server (server.toml)": _PARTY,
    "An administrator (admin.toml)": _PARTY,
}
