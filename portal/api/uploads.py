"""Image archives, for those without a client: sent to the portal, pushed to the registry by a worker."""

from __future__ import annotations

from uuid import UUID

from django.db.models import QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from apps.core.errors import Invalid
from apps.deployments.api.views import OfApp
from apps.deployments.selectors import AppMissing
from apps.registry import spool
from apps.registry.models import Upload
from apps.registry.receiving import upload_receive
from apps.registry.selectors import repository_named, upload_of, uploads_of
from apps.registry.services.uploads import upload_begin
from apps.tenants.permissions import person
from portal.api.feed import connections_close
from portal.bodies import reader_of


class UploadSerializer(serializers.ModelSerializer[Upload]):
    id = serializers.UUIDField(source="uid")

    class Meta:
        model = Upload
        fields = (
            "id",
            "tag",
            "status",
            "status_since",
            "deadline_at",
            "declared_bytes",
            "received_bytes",
            "image_bytes",
            "pushed_bytes",
            "digest",
            "code",
            "detail",
            "pushed_by",
            "created_at",
        )


class UploadList(OfApp, generics.ListAPIView[Upload]):
    serializer_class = UploadSerializer
    queryset = Upload.objects.none()

    def get_queryset(self) -> QuerySet[Upload]:
        return uploads_of(self.app.slug)

    @extend_schema(
        request={"application/x-tar": bytes},
        parameters=[OpenApiParameter("tag", str, required=True, description="the version that it becomes")],
        responses={202: UploadSerializer},
    )
    def put(self, request: Request, slug: str) -> Response:
        """Send an image archive as the body: what ``docker save`` writes, or an OCI image layout as a tar.

        202 once all of it has arrived: a worker checks it and pushes it then. Ask for the upload to see how far it is.
        """
        app = self.app
        repository = repository_named(app.slug)
        if repository is None:
            raise AppMissing(f"There is no app {slug[:60]!r} that you can see.")
        upload = upload_begin(
            repository=repository,
            tag=request.query_params.get("tag", ""),
            by=person(request.user),
            declared=_declared(request),
            spool=spool.identity(),
        )
        upload = upload_receive(upload=upload, read=reader_of(request._request), rest=connections_close)
        place = reverse("api-upload", kwargs={"slug": slug, "uid": upload.uid})
        return Response(UploadSerializer(upload).data, status=status.HTTP_202_ACCEPTED, headers={"Location": place})


@extend_schema(exclude=True)
class UploadListBare(UploadList):
    """Without the slash at its end: after a slash ``curl --upload-file`` puts the file's name."""


class UploadDetail(OfApp):
    @extend_schema(operation_id="apps_uploads_retrieve", responses=UploadSerializer)
    def get(self, request: Request, slug: str, uid: UUID) -> Response:
        """How far an upload is: receiving, checking, pushing; or done, failed, expired."""
        return Response(UploadSerializer(upload_of(self.app.slug, uid)).data)


def _declared(request: Request) -> int | None:
    """None for a body that is sent in chunks."""
    text = request.headers.get("Content-Length", "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise Invalid("Content-Length must be a number of bytes.")
    return int(text)
