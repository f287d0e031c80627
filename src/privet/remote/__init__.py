"""What an administrator does from afar: give orders to a server, follow them, fetch results."""

from privet.remote.desk import Desk, NoAnswer
from privet.remote.following import follow

__all__ = ["Desk", "NoAnswer", "follow"]
