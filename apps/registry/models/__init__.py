from apps.registry.models.repositories import Repository, Version

__all__ = ["Repository", "Version"]
