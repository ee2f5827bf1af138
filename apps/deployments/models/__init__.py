from apps.deployments.models.apps import App
from apps.deployments.models.capsules import FailureCapsule, NoLog
from apps.deployments.models.certificates import AcmeAccount, Certificate, Challenge
from apps.deployments.models.domains import Domain, DomainName, FormerName
from apps.deployments.models.explanations import Explanation
from apps.deployments.models.gateways import Gateway
from apps.deployments.models.instances import Instance
from apps.deployments.models.policies import GatewayPolicy, GatewayPort, SignInPerson
from apps.deployments.models.releases import Release, ReplicaSet
from apps.deployments.models.retention import Retention
from apps.deployments.models.rollouts import Rollout

__all__ = [
    "AcmeAccount",
    "App",
    "Certificate",
    "Challenge",
    "Domain",
    "DomainName",
    "Explanation",
    "FailureCapsule",
    "FormerName",
    "Gateway",
    "GatewayPolicy",
    "GatewayPort",
    "Instance",
    "NoLog",
    "Release",
    "ReplicaSet",
    "Retention",
    "Rollout",
    "SignInPerson",
]
