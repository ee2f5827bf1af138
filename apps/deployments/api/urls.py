from __future__ import annotations

from django.urls import path

from apps.deployments.api import (
    catalogue,
    domains,
    placements,
    policies,
    retention,
    rollouts,
    statistics,
    views,
)
from apps.deployments.api import catalogue, certificates, placements, retention, rollouts, views

urlpatterns = [
    path("apps/", views.AppList.as_view(), name="api-apps"),
    path("apps/<slug:slug>/", views.AppDetail.as_view(), name="api-app"),
    path("apps/<slug:slug>/versions/", catalogue.VersionList.as_view(), name="api-versions"),
    path("apps/<slug:slug>/versions/<str:tag>/", catalogue.VersionDetail.as_view(), name="api-version"),
    path("repositories/", catalogue.RepositoryList.as_view(), name="api-repositories"),
    path("apps/<slug:slug>/releases/", views.ReleaseList.as_view(), name="api-releases"),
    path("apps/<slug:slug>/rollouts/", rollouts.RolloutList.as_view(), name="api-rollouts"),
    path("apps/<slug:slug>/rollouts/<int:number>/", rollouts.RolloutDetail.as_view(), name="api-rollout"),
    path("apps/<slug:slug>/rollouts/<int:number>/cancel/", rollouts.RolloutCancel.as_view(), name="api-rollout-cancel"),
    path("apps/<slug:slug>/rollouts/<int:number>/pause/", rollouts.RolloutPause.as_view(), name="api-rollout-pause"),
    path(
        "apps/<slug:slug>/rollouts/<int:number>/continue/",
        rollouts.RolloutContinue.as_view(),
        name="api-rollout-continue",
    ),
    path("apps/<slug:slug>/rollback/", rollouts.Rollback.as_view(), name="api-rollback"),
    path("apps/<slug:slug>/releases/<int:number>/diff/", rollouts.ReleaseDiff.as_view(), name="api-release-diff"),
    path("apps/<slug:slug>/scale/", rollouts.Scale.as_view(), name="api-scale"),
    path("apps/<slug:slug>/undeploy/", rollouts.Undeploy.as_view(), name="api-undeploy"),
    path("apps/<slug:slug>/instances/", views.InstanceList.as_view(), name="api-instances"),
    path("apps/<slug:slug>/instances/<uuid:uid>/capsule/", views.CapsuleDetail.as_view(), name="api-capsule"),
    path("apps/<slug:slug>/retention/", retention.RetentionDetail.as_view(), name="api-retention"),
    path("apps/<slug:slug>/retention/preview/", retention.RetentionPreview.as_view(), name="api-retention-preview"),
    path("apps/<slug:slug>/retention/apply/", retention.RetentionApply.as_view(), name="api-retention-apply"),
    path("apps/<slug:slug>/domains/", domains.DomainList.as_view(), name="api-domains"),
    path("apps/<slug:slug>/domains/<int:pk>/", domains.DomainDetail.as_view(), name="api-domain"),
    path("apps/<slug:slug>/domains/<int:pk>/check/", domains.DomainCheck.as_view(), name="api-domain-check"),
    path("tenants/<slug:slug>/domains/", domains.TenantDomainList.as_view(), name="api-tenant-domains"),
    path("apps/<slug:slug>/policy/", policies.PolicyDetail.as_view(), name="api-policy"),
    path("apps/<slug:slug>/policy/people/", policies.PersonList.as_view(), name="api-people"),
    path("apps/<slug:slug>/policy/people/<str:name>/", policies.PersonDetail.as_view(), name="api-person"),
    path("apps/<slug:slug>/ports/", policies.PortList.as_view(), name="api-ports"),
    path("apps/<slug:slug>/ports/<int:port>/", policies.PortDetail.as_view(), name="api-port"),
    path("apps/<slug:slug>/traffic/", statistics.TrafficDetail.as_view(), name="api-traffic"),
    path("apps/<slug:slug>/access-log/", statistics.AccessLogDetail.as_view(), name="api-access-log"),
    path("apps/<slug:slug>/events/", views.EventList.as_view(), name="api-events"),
    path("tenants/<slug:slug>/certificates/", certificates.CertificateList.as_view(), name="api-certificates"),
    path(
        "tenants/<slug:slug>/certificates/<uuid:uid>/",
        certificates.CertificateDetail.as_view(),
        name="api-certificate",
    ),
    path(
        "tenants/<slug:slug>/certificates/<uuid:uid>/retry/",
        certificates.CertificateRetry.as_view(),
        name="api-certificate-retry",
    ),
    path("placements/explain/", placements.PlacementExplain.as_view(), name="api-placements-explain"),
    path("placements/explain", placements.PlacementExplainBare.as_view()),
    path("placements/explanations/<int:pk>/", placements.ExplanationDetail.as_view(), name="api-explanation"),
]
