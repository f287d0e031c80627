"""A kit for every party of a project, from one project file.

project       the file that operators write
roll          who is on the next list of parties
authority     certificates; `issuing` keeps and renews them
rendering     what the files of a kit say, from `templates`
folders       a kit on disk
halves        keys that a party makes itself
provisioning  all of it in order
"""

from privet.provision.errors import ProvisionError
from privet.provision.halves import Halves, join
from privet.provision.project import Project
from privet.provision.provisioning import Provisioned, Row, provision

__all__ = [
    "Halves",
    "Project",
    "ProvisionError",
    "Provisioned",
    "Row",
    "join",
    "provision",
]
