"""Why an archive is not taken. The sentences are for the person who sent it."""

from __future__ import annotations

from apps.core.errors import Invalid


class ArchiveRefused(Invalid):
    """Something about the archive that its sender can mend."""

    code = "uploads.archive_refused"


class NotAnArchive(ArchiveRefused):
    code = "uploads.not_an_archive"


class Truncated(ArchiveRefused):
    code = "uploads.archive_truncated"


class Malformed(ArchiveRefused):
    code = "uploads.archive_malformed"


class EntryRefused(ArchiveRefused):
    """A name or a kind of entry that no image archive needs."""

    code = "uploads.entry_refused"


class TooMuch(ArchiveRefused):
    """More entries, layers, text or bytes than are looked at."""

    code = "uploads.archive_too_much"


class Bomb(ArchiveRefused):
    code = "uploads.archive_bomb"


class NoImage(ArchiveRefused):
    code = "uploads.no_image"


class SeveralImages(ArchiveRefused):
    code = "uploads.several_images"


class ManifestInvalid(ArchiveRefused):
    code = "uploads.manifest_invalid"


class BlobMissing(ArchiveRefused):
    code = "uploads.blob_missing"


class DigestMismatch(ArchiveRefused):
    code = "uploads.digest_mismatch"


class NotAnImage(ArchiveRefused):
    code = "uploads.not_an_image"


class LayersMismatch(ArchiveRefused):
    code = "uploads.layers_mismatch"


class LayerUnsupported(ArchiveRefused):
    code = "uploads.layer_unsupported"


def shown(text: object) -> str:
    """Something of the archive, for a sentence: short, and without control characters."""
    return ascii(str(text)[:80])
