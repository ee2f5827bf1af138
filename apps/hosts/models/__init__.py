from apps.hosts.models.claims import Allocation, PortAllocation
from apps.hosts.models.hosts import Cluster, Host

__all__ = ["Allocation", "Cluster", "Host", "PortAllocation"]
