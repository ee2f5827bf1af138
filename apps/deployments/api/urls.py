from __future__ import annotations

from django.urls import path

from apps.deployments.api import placements, views

urlpatterns = [
    path("apps/", views.AppList.as_view(), name="api-apps"),
    path("apps/<slug:slug>/", views.AppDetail.as_view(), name="api-app"),
    path("apps/<slug:slug>/versions/", views.VersionList.as_view(), name="api-versions"),
    path("apps/<slug:slug>/releases/", views.ReleaseList.as_view(), name="api-releases"),
    path("apps/<slug:slug>/rollouts/", views.RolloutList.as_view(), name="api-rollouts"),
    path("apps/<slug:slug>/rollouts/<int:number>/", views.RolloutDetail.as_view(), name="api-rollout"),
    path("apps/<slug:slug>/rollouts/<int:number>/cancel/", views.RolloutCancel.as_view(), name="api-rollout-cancel"),
    path("apps/<slug:slug>/undeploy/", views.Undeploy.as_view(), name="api-undeploy"),
    path("apps/<slug:slug>/instances/", views.InstanceList.as_view(), name="api-instances"),
    path("apps/<slug:slug>/events/", views.EventList.as_view(), name="api-events"),
    path("placements/explain/", placements.PlacementExplain.as_view(), name="api-placements-explain"),
    path("placements/explain", placements.PlacementExplainBare.as_view()),
    path("placements/explanations/<int:pk>/", placements.ExplanationDetail.as_view(), name="api-explanation"),
]
