from apps.hosts.models.claims import Allocation, PortAllocation
from apps.hosts.models.hosts import Cluster, Host
from apps.hosts.models.joining import Authority, HostIdentity, JoinToken

__all__ = ["Allocation", "Authority", "Cluster", "Host", "HostIdentity", "JoinToken", "PortAllocation"]
