"""What the platform and its gateways agree on: ZooKeeper paths, payloads and their version.

The only part of this package that the platform may import. Everything that crosses is parsed into a type
here, so that no text typed by a tenant travels on unparsed.
"""

from gateway.contract.certificates import MOST_BYTES, MOST_NAMES, Certificate, served_name
from gateway.contract.gateways import GatewayState
from gateway.contract.policies import LIMITS, Policy, SignIn, network
from gateway.contract.routes import PROTOCOLS, Group, Place, Route
from gateway.contract.traffic import ANSWER_BOUNDS_MS, ANSWER_BUCKETS, STATUS_CLASSES, AppTraffic, ContainerTraffic
from gateway.contract.words import (
    ADDRESS_PATH,
    CERTIFICATE_PATH,
    EPOCH_PATH,
    FORMAT,
    GATEWAY_PATH,
    MAX_WEIGHT,
    ROOT,
    ROUTE_PATH,
    SERVICE_PATH,
    Address,
    ContractError,
    app_address_path,
    app_id,
    certificate_id,
    certificate_path,
    container_id,
    gateway_id,
    gateway_path,
    host_name,
    instance_path,
    path_prefix,
    route_path,
    version,
    version_path,
    wildcard_name,
)

__all__ = [
    "ADDRESS_PATH",
    "ANSWER_BOUNDS_MS",
    "ANSWER_BUCKETS",
    "CERTIFICATE_PATH",
    "EPOCH_PATH",
    "FORMAT",
    "GATEWAY_PATH",
    "LIMITS",
    "MAX_WEIGHT",
    "MOST_BYTES",
    "MOST_NAMES",
    "PROTOCOLS",
    "ROOT",
    "ROUTE_PATH",
    "SERVICE_PATH",
    "STATUS_CLASSES",
    "Address",
    "AppTraffic",
    "Certificate",
    "ContainerTraffic",
    "ContractError",
    "GatewayState",
    "Group",
    "Place",
    "Policy",
    "Route",
    "SignIn",
    "app_address_path",
    "app_id",
    "certificate_id",
    "certificate_path",
    "container_id",
    "gateway_id",
    "gateway_path",
    "host_name",
    "instance_path",
    "network",
    "path_prefix",
    "route_path",
    "served_name",
    "version",
    "version_path",
    "wildcard_name",
]
