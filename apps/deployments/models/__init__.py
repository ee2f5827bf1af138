from apps.deployments.models.apps import App, Domain
from apps.deployments.models.capsules import FailureCapsule, NoLog
from apps.deployments.models.certificates import AcmeAccount, Certificate, Challenge
from apps.deployments.models.explanations import Explanation
from apps.deployments.models.gateways import Gateway
from apps.deployments.models.instances import Instance
from apps.deployments.models.releases import Release, ReplicaSet
from apps.deployments.models.retention import Retention
from apps.deployments.models.rollouts import Rollout

__all__ = [
    "AcmeAccount",
    "App",
    "Certificate",
    "Challenge",
    "Domain",
    "Explanation",
    "FailureCapsule",
    "Gateway",
    "Instance",
    "NoLog",
    "Release",
    "ReplicaSet",
    "Retention",
    "Rollout",
]
