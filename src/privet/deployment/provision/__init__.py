"""A kit for every party of a project, from one project file.

project       the file that operators write
roll          who is on the next list of parties
authority     certificates; `issuing` keeps and renews them
rendering     what the files of a kit say, from `templates`
folders       a kit on disk
halves        keys that a party makes itself
provisioning  all of it in order
"""

from privet.deployment.provision.errors import ProvisionError
from privet.deployment.provision.project import PartyKeys, Project, join
from privet.deployment.provision.provisioning import Provisioned, ProvisionedParty, provision

__all__ = [
    "PartyKeys",
    "Project",
    "ProvisionError",
    "Provisioned",
    "ProvisionedParty",
    "join",
    "provision",
]
