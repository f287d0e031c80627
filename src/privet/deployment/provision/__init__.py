"""A kit for every party of a project, from one project file.

project       the file that operators write, and the public keys that a party made itself
roll          who is on the next list of parties
authority     the project's certificate authority: issues, keeps and renews certificates
rendering     what the files of a kit say, from `templates`, and a kit on disk
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
