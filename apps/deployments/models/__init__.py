from apps.deployments.models.apps import App, Domain
from apps.deployments.models.explanations import Explanation
from apps.deployments.models.gateways import Gateway
from apps.deployments.models.instances import Instance
from apps.deployments.models.releases import Release, ReplicaSet, Rollout

__all__ = ["App", "Domain", "Explanation", "Gateway", "Instance", "Release", "ReplicaSet", "Rollout"]
