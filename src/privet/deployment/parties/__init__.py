"""Who belongs to a project, and what each of them starts from.

parties    the members, signed by the project's operators
current    the same list as a file that may be replaced while a process runs
kits       the configuration file in each party's kit
node_keys  the key that Flower knows a silo's node by
"""

from privet.deployment.parties.addresses import host_port
from privet.deployment.parties.current import PartiesFile
from privet.deployment.parties.errors import PartiesError
from privet.deployment.parties.kits import AdminKit, ServerKit, SiloKit
from privet.deployment.parties.node_keys import NodeKey
from privet.deployment.parties.parties import Parties, Party, Role
from privet.deployment.parties.reading import load_parties, read_parties

__all__ = [
    "AdminKit",
    "NodeKey",
    "Parties",
    "PartiesError",
    "PartiesFile",
    "Party",
    "Role",
    "ServerKit",
    "SiloKit",
    "host_port",
    "load_parties",
    "read_parties",
]
