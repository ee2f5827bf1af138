from apps.registry.models.external import ExternalRegistry, Import
from apps.registry.models.keys import TokenKey
from apps.registry.models.repositories import Manifest, Part, Repository, Version
from apps.registry.models.robots import RefreshToken, Robot
from apps.registry.models.uploads import Upload

__all__ = [
    "ExternalRegistry",
    "Import",
    "Manifest",
    "Part",
    "RefreshToken",
    "Repository",
    "Robot",
    "TokenKey",
    "Upload",
    "Version",
]
