"""The tenants' pages."""

from __future__ import annotations

from django.contrib.auth.views import LogoutView
from django.urls import include, path

from portal.web.views import (
    account,
    app,
    apps,
    base_images,
    cleanup,
    deleting,
    external,
    instance,
    login,
    placement,
    push,
    registry,
    releases,
    robots,
    rollouts,
)

app_name = "web"

urlpatterns = [
    path("login/", login.Login.as_view(), name="login"),
    path("logout/", LogoutView.as_view(next_page="web:login"), name="logout"),
    path("i18n/", include("django.conf.urls.i18n")),
    path("", apps.apps_list, name="apps"),
    path("account/", account.account, name="account"),
    path("account/tokens", account.token_new, name="token-new"),
    path("account/tokens/<int:pk>/revoke", account.token_end, name="token-revoke"),
    path("apps/live", apps.apps_live, name="apps-live"),
    path("apps/new", apps.app_new, name="app-new"),
    path("apps/<slug:slug>/", app.app_page, name="app"),
    path("apps/<slug:slug>/live", app.app_live, name="app-live"),
    path("apps/<slug:slug>/push", push.push_page, name="push"),
    path("apps/<slug:slug>/push/live", push.push_live, name="push-live"),
    path("apps/<slug:slug>/import", external.import_page, name="import"),
    path("apps/<slug:slug>/deploy", app.app_deploy, name="app-deploy"),
    path("apps/<slug:slug>/rollouts/<int:number>/cancel", app.rollout_cancel_page, name="rollout-cancel"),
    path("apps/<slug:slug>/instances/<uuid:uid>/", instance.instance_page, name="instance"),
    path("apps/<slug:slug>/rollouts/<int:number>/", rollouts.rollout_page, name="rollout"),
    path("apps/<slug:slug>/rollouts/<int:number>/live", rollouts.rollout_live, name="rollout-live"),
    path("apps/<slug:slug>/rollouts/<int:number>/pause", rollouts.rollout_pause_now, name="rollout-pause"),
    path("apps/<slug:slug>/rollouts/<int:number>/continue", rollouts.rollout_continue_now, name="rollout-continue"),
    path("apps/<slug:slug>/versions/", registry.versions_page, name="versions"),
    path("apps/<slug:slug>/versions/<str:tag>/", registry.version_page, name="version"),
    path("apps/<slug:slug>/versions/<str:tag>/delete", registry.version_delete_page, name="version-delete"),
    path("apps/<slug:slug>/deploy-on-push", registry.push_page, name="deploy-on-push"),
    path("apps/<slug:slug>/releases/", releases.releases_page, name="releases"),
    path("apps/<slug:slug>/releases/diff", releases.release_diff_page, name="release-diff"),
    path("apps/<slug:slug>/releases/<int:number>/rollback", releases.rollback_page, name="rollback"),
    path("apps/<slug:slug>/cleanup", cleanup.cleanup_page, name="cleanup"),
    path("apps/<slug:slug>/cleanup/now", cleanup.cleanup_now, name="cleanup-now"),
    path("apps/<slug:slug>/scale", app.scale, name="app-scale"),
    path("apps/<slug:slug>/undeploy", app.app_undeploy, name="app-undeploy"),
    path("apps/<slug:slug>/delete", deleting.app_delete_page, name="app-delete"),
    path("apps/<slug:slug>/placement", placement.placement_page, name="placement"),
    path("apps/<slug:slug>/placement/<int:pk>", placement.explanation_page, name="explanation"),
    path("base-images/", base_images.base_images_page, name="base-images"),
    path("base-images/<slug:name>/", base_images.base_image_page, name="base-image"),
    path("registry/", registry.registry_page, name="registry"),
    path("tenants/<slug:slug>/registries", external.external_page, name="external"),
    path("tenants/<slug:slug>/registries/<slug:name>/test", external.external_test_now, name="external-test"),
    path("tenants/<slug:slug>/registries/<slug:name>/delete", external.external_delete_now, name="external-delete"),
    path("tenants/<slug:slug>/delete", deleting.tenant_delete_page, name="tenant-delete"),
    path("tenants/<slug:slug>/robots", robots.robots_page, name="robots"),
    path("tenants/<slug:slug>/robots/<slug:name>/renew", robots.robot_renew_now, name="robot-renew"),
    path("tenants/<slug:slug>/robots/<slug:name>/delete", robots.robot_delete_now, name="robot-delete"),
]
