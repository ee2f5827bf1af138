from apps.registry.models.repositories import Manifest, Part, Repository, Version

__all__ = ["Manifest", "Part", "Repository", "Version"]
