"""Words for people: every status, role and code that the services speak in, in the reader's language."""

from __future__ import annotations

from typing import Final

from django.utils.functional import Promise
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _

from apps.core.errors import BerthError
from apps.deployments.models import NoLog

Text = str | Promise

#: status -> (words, tone). Tones are classes of berth.css.
APP_STATES: Final[dict[str, tuple[Text, str]]] = {
    "new": (_("not deployed yet"), "quiet"),
    "deploying": (_("deploying"), "busy"),
    "running": (_("running"), "good"),
    "degraded": (_("degraded"), "warn"),
    "down": (_("down"), "bad"),
    "asleep": (_("asleep"), "quiet"),
    "undeploying": (_("undeploying"), "busy"),
    "failed": (_("deploy failed"), "bad"),
    "stopped": (_("stopped"), "quiet"),
    "deleting": (_("being deleted"), "busy"),
}
INSTANCE_STATUSES: Final[dict[str, tuple[Text, str]]] = {
    "placed": (_("placed"), "busy"),
    "starting": (_("starting"), "busy"),
    "running": (_("started, not ready yet"), "busy"),
    "healthy": (_("ready"), "good"),
    "unhealthy": (_("unhealthy"), "bad"),
    "draining": (_("stopping"), "busy"),
    "stopped": (_("stopped"), "quiet"),
    "failed": (_("failed"), "bad"),
    "lost": (_("lost"), "bad"),
}
ROLLOUT_STATUSES: Final[dict[str, tuple[Text, str]]] = {
    "pending": (_("waiting"), "quiet"),
    "progressing": (_("in progress"), "busy"),
    "paused": (_("paused"), "warn"),
    "succeeded": (_("succeeded"), "good"),
    "failed": (_("failed"), "bad"),
    "cancelled": (_("cancelled"), "quiet"),
    "rolled_back": (_("rolled back"), "warn"),
    "superseded": (_("superseded"), "quiet"),
}
UPLOAD_STATUSES: Final[dict[str, tuple[Text, str]]] = {
    "receiving": (_("arriving"), "busy"),
    "checking": (_("being checked"), "busy"),
    "pushing": (_("being pushed"), "busy"),
    "done": (_("pushed"), "good"),
    "failed": (_("refused"), "bad"),
    "expired": (_("took too long"), "bad"),
}
IMPORT_STATUSES: Final[dict[str, tuple[Text, str]]] = {
    "waiting": (_("waiting"), "busy"),
    "resolving": (_("being looked up"), "busy"),
    "copying": (_("being copied"), "busy"),
    "done": (_("copied"), "good"),
    "failed": (_("not copied"), "bad"),
    "expired": (_("took too long"), "bad"),
}
DOMAIN_STATUSES: Final[dict[str, tuple[Text, str]]] = {
    "pending": (_("waiting for its proof"), "busy"),
    "proven": (_("routes"), "good"),
    "failed": (_("not proven"), "bad"),
    "missing": (_("routes, proof gone"), "warn"),
}
EVENT_LEVELS: Final[dict[str, tuple[Text, str]]] = {
    "info": (_("info"), "quiet"),
    "warning": (_("warning"), "warn"),
    "error": (_("error"), "bad"),
}
ROLES: Final[dict[str, Text]] = {
    "owner": _("owner"),
    "admin": _("admin"),
    "developer": _("developer"),
    "viewer": _("viewer"),
}
SCOPES: Final[dict[str, Text]] = {
    "api": _("the API"),
    "registry": _("the registry"),
}
ROBOT_ACTIONS: Final[dict[str, Text]] = {
    "pull": _("pull"),
    "push": _("push"),
    "delete": _("delete"),
}

#: code -> a sentence with the next step. Shown alone where the service's own sentence can't be shown, and before
#: that sentence where the reader's language is not English, in which the services speak.
CODES: Final[dict[str, Text]] = {
    "apps.confirm_needed": _("Type the app's name to say that you mean it."),
    "apps.deleting": _("The app is being deleted: nothing of it can be changed any more."),
    "apps.not_deployed": _("The app runs nothing that could be undeployed."),
    "address.answer_too_large": _("What the address answered is larger than it may be."),
    "address.refused": _("The address leads to a network that the platform does not call for tenants."),
    "address.too_slow": _("The address did not answer in time. Try again later."),
    "address.unreachable": _("There is no usable answer from the address. Look whether it is right, and up."),
    "apps.not_found": _("There is no such app that you can see."),
    "auth.throttled": _("Too many failed sign-ins. Wait, then try again with the right secret."),
    "base_images.env_invalid": _("A variable of the image can't be used so."),
    "base_images.invalid": _("That image, or that version of it, can't be run here. Pick another one."),
    "base_images.not_found": _("The platform has no such image."),
    "certificates.busy": _("The order is being worked on, or was tried a moment ago. Wait a minute."),
    "certificates.https_off": _("The platform's gateways serve no HTTPS yet. Ask its operators."),
    "certificates.invalid": _("The certificate or its key can't be used."),
    "certificates.name_not_held": _(
        "It is for no domain of the tenant. Add the domain to an app, and prove it, first."
    ),
    "certificates.not_found": _("The tenant has no such certificate."),
    "certificates.ordering_off": _("The platform orders no certificates. Send one."),
    "certificates.taken": _("The tenant has this certificate, or an order for this domain, already."),
    "certificates.too_many": _("The tenant has as many certificates as it may. Delete one first."),
    "conflict": _("This does not go together with what happens right now. Look again, then retry."),
    "container.refused": _("The container could not be created as asked. Check the release's settings."),
    "domains.dns_failed": _("The name's DNS servers answered with an error. Look whether its zone is in order."),
    "domains.dns_timeout": _("The name's DNS servers did not answer in time. The platform keeps asking."),
    "domains.exists": _("This name with this prefix leads to one of your apps already."),
    "domains.expired": _("It was not proven in time. Put a record into DNS, then ask for a look."),
    "domains.held": _("The name, or a wildcard that it meets, is another tenant's."),
    "domains.invalid": _("The name or the prefix can't be used so."),
    "domains.lookalike": _("The name looks like another one, or mixes letters of several scripts."),
    "domains.lost": _("Another tenant has proven the name, while your proof was gone from DNS."),
    "domains.no_such_name": _("DNS knows no such name yet. A new record may take a while to be seen."),
    "domains.not_found": _("The app has no such domain."),
    "domains.of_platform": _("The platform's own address stays with its app."),
    "domains.proof_missing": _("DNS has the name, but neither record of the proof. A new one may take a while."),
    "domains.proof_wrong": _("The TXT record is there with another value. Copy the value anew."),
    "domains.reserved": _("The name is the platform's own, or can be nobody's. Pick another one."),
    "domains.txt_needed": _("The name, or the app's, was another tenant's once: here only the TXT record proves it."),
    "discovery.unavailable": _("Routing can't be changed at the moment. What serves, serves on; try again soon."),
    "external.invalid": _("The sign-in can't be kept so: look at its user name and password."),
    "external.not_found": _("The tenant has no such registry."),
    "external.taken": _("There is a registry of this name, or one for this host, already."),
    "engine.address_refused": _("The host could not offer the instance's address. The platform will place it anew."),
    "engine.failed": _("The host's container engine failed. The platform's operators can see why."),
    "engine.moved": _("The host's container engine was replaced. The platform will place the instance anew."),
    "engine.start_overdue": _("It could not be started in time. The platform will place the instance anew."),
    "engine.unreachable": _("The host could not be reached. The platform will place the instance anew."),
    "events.too_many_streams": _("You have too many event streams open. Close one first."),
    "explanations.not_found": _("There is no such explanation. Only the newest of an app are kept."),
    "host.name_taken": _("A container of this name was in the way on the host. The platform will try again."),
    "host.networks_exhausted": _("The host has no network left for your tenant. Tell the platform's operators."),
    "host.port_taken": _("The instance's port was in use on its host. The platform will place it anew."),
    "hosts.address_taken": _("There is a host at this address already. Remove that one first."),
    "hosts.csr_invalid": _("The certificate request can't be used. Make a new key and request."),
    "hosts.identity_invalid": _("No host has this secret. Join the host again, with a new token."),
    "hosts.in_use": _("Instances are still on the host. Drain it first, and wait until it is empty."),
    "hosts.invalid": _("What the host says of itself can't be right. The detail says what to change."),
    "hosts.join_token_invalid": _("This join token is not valid (any more). Ask an admin for a new one."),
    "hosts.join_token_not_found": _("There is no such join token."),
    "hosts.name_taken": _("There is a host of this name already. Choose another."),
    "hosts.no_cluster": _("There is no default cluster yet. The platform's operators make one in the admin."),
    "hosts.not_found": _("There is no such host."),
    "image.denied": _("The registry refused the pull of the image. Tell the platform's operators."),
    "image.not_found": _("The registry has no such image any more. Push it again, then deploy."),
    "image.not_an_image": _("What was pushed is no image that a container could be made of. Deploy another version."),
    "image.other_platform": _(
        "The image is for another platform than its host's. Build it for theirs, and push it anew."
    ),
    "image.unavailable": _("The image could not be pulled. Look whether the registry is up, then deploy again."),
    "imports.expired": _("It took longer than the platform waits. Ask for it again: what was copied stays."),
    "imports.not_allowed": _("You may not push to this app any more, or it is being deleted."),
    "imports.not_found": _("The app has no such import."),
    "imports.reference_invalid": _("Name the image with its registry, such as registry.example.com/team/app:1.0."),
    "imports.source_busy": _("The other registry can't answer at the moment. Try again later."),
    "imports.source_denied": _("The other registry does not let this user in. Look at the sign-in for it."),
    "imports.source_invalid": _("What the other registry gave is no image that can be copied."),
    "imports.source_not_found": _("The other registry has no such image, or does not show it to this user."),
    "imports.tag_invalid": _("The version can't be named so: letters, digits, dots, hyphens and underscores."),
    "imports.too_many": _("So many copies of the tenant are under way already. Wait until one has ended."),
    "instance.exited": _("The process ended by itself. Its exit code and the last lines that it wrote say why."),
    "host.lost": _("Its host does not answer any more. It is being replaced on another one."),
    "instance.never_ready": _("It never answered its check. It must listen on $PORT and answer the health path."),
    "instance.out_of_memory": _("It used more memory than it has. Deploy with more memory."),
    "instance.unhealthy": _("It stopped answering its health check."),
    "instance.vanished": _("Its container is gone from its host. It is being replaced."),
    "instances.no_capsule": _("There is nothing to read of how this instance ended."),
    "instances.not_found": _("The app has no such instance."),
    "not_found": _("There is no such thing that you can see."),
    "permission.denied": _("Your role does not allow this. Ask an owner or admin of the tenant."),
    "placement.contended": _("The cluster was too busy to place this. Try again."),
    "placement.no_host": _("No host has room for this. Ask for less, or tell the platform's operators."),
    "placement.global_has_no_count": _("A global app runs once on every matching host: leave the number out."),
    "placement.rules_invalid": _("A placement rule can't be used."),
    "platform.error": _("Something of ours broke. It was logged; try again, then tell the platform's operators."),
    "platform.guard_settings": _("The platform is not set up for this. Tell its operators."),
    "platform.unavailable": _("The platform can't do this at the moment. Try again soon."),
    "policy.http_only": _("That rule is about requests: an app of TCP has none."),
    "policy.invalid": _("A rule is out of bounds, or not a network."),
    "policy.person_invalid": _("That name or password can't be used."),
    "policy.person_not_found": _("Nobody of this name may sign in to the app."),
    "policy.too_many_people": _("So many people as may sign in to an app do already. Take one away first."),
    "ports.exhausted": _("The platform has no free port for an app of TCP. Tell its operators."),
    "ports.not_found": _("The app has no such port."),
    "ports.not_tcp": _("Ports are for apps of TCP: this one is reached by its name."),
    "protocol.in_use": _("What an app speaks is changed while nothing of it runs and it has no ports."),
    "protocol.invalid": _("An app speaks http, h2 or tcp."),
    "quota.exceeded": _("The tenant's quota has no room for this. Stop something, or ask an admin for more."),
    "registry.image_refused": _("The registry did not take the image. Tell the platform's operators."),
    "registry.push_refused": _("Nothing can be pushed to this repository now. Pulls and deletes go on."),
    "registry.sign_in_refused": _("The user name or the secret is not valid (any more)."),
    "retention.invalid": _("The rules of the clean-up can't be like this."),
    "registry.unavailable": _("The registry does not answer. Try again soon."),
    "registry.repository_unreadable": _("The registry can't read this repository. Tell the platform's operators."),
    "registry.unconfigured": _("The registry is not set up yet. Tell the platform's operators."),
    "releases.invalid": _("A setting of the release can't be used."),
    "request.invalid": _("What was sent can't be used."),
    "request.too_large": _("What was sent is too large: 3 MiB at most."),
    "request.refused": _("This was refused."),
    "robots.invalid": _("The robot can't be made like this."),
    "robots.name_taken": _("The tenant has a robot of this name already. Choose another."),
    "robots.not_found": _("The tenant has no such robot."),
    "robots.too_many": _("The tenant has as many robots as it may have. Delete some first."),
    "rollout.deadline": _("Not everything was done in time."),
    "rollout.unpublished": _("Everything is ready, but the route is not published yet. The platform keeps trying."),
    "rollout.superseded": _("Something newer took its place."),
    "rollouts.in_progress": _("Rollouts are in progress. Wait for them, or cancel some."),
    "rollout.cancelled": _("Somebody cancelled it. What served before serves on."),
    "rollouts.too_many": _("Too many rollouts of this app were asked for. Wait a while."),
    "rollouts.not_open": _("This rollout has ended already."),
    "rollouts.switched": _("It is through: the old version is going already. Roll back instead."),
    "rollouts.not_found": _("The app has no such rollout."),
    "rollouts.not_paused": _("This rollout waits for nobody."),
    "rollouts.invalid": _("The rollout's options are not valid."),
    "apps.pattern_invalid": _("A pattern is made as tags are, with * for any characters and ? for one."),
    "releases.not_found": _("The app has no such release."),
    "rollout.unhealthier": _("The new version answered with more errors than the old one."),
    "rollout.slower": _("The new version answered more slowly than the old one."),
    "slug.invalid": _("The name can't be used: small letters, digits and single hyphens, a letter first."),
    "slug.taken": _("The name is taken. App names are unique in the platform; pick another one."),
    "tenants.confirm_needed": _("Type the tenant's name to say that you mean it."),
    "tenants.deleting": _("The tenant is being deleted: nothing can be made in it any more."),
    "tenants.has_apps": _("The tenant has apps. Delete them first, or say that they all go with it."),
    "tenants.has_hosts": _("Hosts are dedicated to the tenant. Ask the platform's operators to give them away first."),
    "tenants.not_found": _("There is no such tenant that you are a member of."),
    "tokens.invalid": _("The token can't be made like this."),
    "tokens.not_found": _("You have no such token."),
    "uploads.archive_bomb": _("Unpacked, the archive would be far larger than an image is."),
    "uploads.archive_malformed": _("The archive is damaged. Make it anew."),
    "uploads.archive_refused": _("The archive can't be used."),
    "uploads.archive_too_much": _("The archive has more entries, layers or text than an image needs."),
    "uploads.archive_truncated": _("The archive ends too early. Send it again, whole."),
    "uploads.blob_missing": _("A part of the image is not in the archive. Save the image anew."),
    "uploads.digest_mismatch": _("A part of the image is not what its digest says. Save the image anew."),
    "uploads.entry_refused": _(
        "The archive has an entry that no image needs. Make it with docker save or skopeo copy."
    ),
    "uploads.expired": _("It took longer than the platform waits. Send it again."),
    "uploads.interrupted": _("The connection ended before the archive was whole. Send it again."),
    "uploads.layer_unsupported": _("A layer is of a kind that is not taken. Save it packed with gzip, or not packed."),
    "uploads.layers_mismatch": _("The layers are not those that the image's configuration means. Save the image anew."),
    "uploads.lost": _("The platform has lost the archive. Send it again."),
    "uploads.manifest_invalid": _("What the archive says of its image can't be used. Save the image anew."),
    "uploads.no_image": _("The archive holds no image. Make it with docker save, podman save or skopeo copy."),
    "uploads.no_room": _("The platform has no room for this archive at the moment. Try again later."),
    "uploads.not_allowed": _("You may not push to this app any more, or it is being deleted."),
    "uploads.not_an_archive": _("This is no tar archive. Send it as it was saved, or packed with gzip."),
    "uploads.not_an_image": _("What the archive holds is no image for Linux."),
    "uploads.not_found": _("The app has no such upload."),
    "uploads.several_images": _("The archive holds several images. Save one image, and send that."),
    "uploads.tag_invalid": _("The version can't be named so: letters, digits, dots, hyphens and underscores."),
    "uploads.too_large": _("The archive is larger than the platform takes. Push it with a client instead."),
    "uploads.too_many": _("So many uploads of the tenant are under way already. Wait until one has ended."),
    "versions.deleted": _("That version was deleted. Push it anew and deploy it."),
    "versions.in_use": _("Something still runs the version, or is about to. Deploy another one first, or undeploy."),
    "versions.not_an_image": _("That version is no image that a container could be made of. Pick another one."),
    "versions.wrong_platform": _(
        "The image is for no processor that the hosts have. Build it for theirs, and push it anew."
    ),
    "versions.not_found": _("The app has no such version. Push it first, or pick one of its versions."),
}
EVENTS: Final[dict[str, Text]] = {
    "app.created": _("App created"),
    "app.delete_waits": _("Deletion waits"),
    "app.deleted": _("App deleted"),
    "app.deleting": _("Deletion begun"),
    "domain.added": _("Name asked for"),
    "domain.changed": _("Name changed"),
    "domain.failed": _("Name not proven"),
    "domain.held": _("Name held by another tenant"),
    "domain.lost": _("Name lost"),
    "domain.proof_back": _("Proof of a name back"),
    "domain.proof_gone": _("Proof of a name gone"),
    "domain.proven": _("Name proven"),
    "domain.removed": _("Name removed"),
    "certificate.delayed": _("Certificate delayed"),
    "certificate.deleted": _("Certificate deleted"),
    "certificate.ended": _("Certificate has ended"),
    "certificate.ends": _("Certificate ends soon"),
    "certificate.failed": _("Certificate failed"),
    "certificate.issued": _("Certificate issued"),
    "certificate.ordered": _("Certificate ordered"),
    "certificate.platform": _("Platform's certificate changed"),
    "certificate.uploaded": _("Certificate sent"),
    "external.changed": _("Registry's sign-in changed"),
    "external.created": _("Registry added"),
    "external.deleted": _("Registry deleted"),
    "import.failed": _("Copy failed"),
    "instance.failed": _("Instance failed"),
    "instance.lost": _("Instance lost"),
    "instance.ready": _("Instance ready"),
    "instance.removed": _("Instance removed"),
    "instance.restarting": _("Instance restarts"),
    "instance.stopped": _("Instance stopped"),
    "instance.unhealthy": _("Instance unhealthy"),
    "instance.unready": _("Instance not ready"),
    "placement.waiting": _("Waiting for room"),
    "registry.sign_in_locked": _("Failed sign-ins to the registry"),
    "robot.created": _("Robot made"),
    "robot.deleted": _("Robot deleted"),
    "robot.renewed": _("New secret for a robot"),
    "push.deployed": _("Push deployed"),
    "push.refused": _("Push not deployed"),
    "push.stopped": _("Deploy on push stopped"),
    "push.switched": _("Deploy on push changed"),
    "rollout.cancelled": _("Rollout cancelled"),
    "rollout.failed": _("Rollout failed"),
    "rollout.refused": _("Deploy refused"),
    "rollout.queued": _("Rollout waits"),
    "rollout.step": _("Rollout goes on"),
    "rollout.paused": _("Rollout paused"),
    "app.scaled": _("Scaled"),
    "rollout.rolled_back": _("Rolled back"),
    "rollout.started": _("Rollout started"),
    "rollout.succeeded": _("Rollout succeeded"),
    "rollout.superseded": _("Rollout superseded"),
    "tenant.delete_waits": _("Deletion of the tenant waits"),
    "retention.applied": _("Cleaned up"),
    "policy.changed": _("Traffic rules changed"),
    "policy.maintenance_began": _("Maintenance began"),
    "policy.maintenance_ended": _("Maintenance ended"),
    "policy.person_removed": _("Somebody may not sign in any more"),
    "policy.person_set": _("Somebody may sign in"),
    "ports.claimed": _("Port claimed"),
    "ports.released": _("Port given back"),
    "app.protocol_changed": _("Protocol changed"),
    "retention.changed": _("Rules of the clean-up changed"),
    "storage.over_quota": _("Storage used up"),
    "storage.within_quota": _("Storage has room again"),
    "tenant.deleted": _("Tenant deleted"),
    "tenant.deleting": _("Deletion of the tenant begun"),
    "undeploy.started": _("Undeploy started"),
    "upload.failed": _("Archive refused"),
    "version.delete_waits": _("Deletion of a version waits"),
    "version.deleted": _("Version deleted"),
    "version.deleting": _("Deletion of a version begun"),
    "version.pushed": _("Version pushed"),
}

#: Why a release needs a version, beside its instances; as apps.deployments.services.versions says it.
USES: Final[dict[str, Text]] = {
    "rollout": _("a rollout"),
    "traffic": _("has traffic"),
    "wanted": _("instances to come"),
}
#: What the registry's manifests are; an unknown one was not read yet.
MANIFESTS: Final[dict[str, Text]] = {
    "unknown": _("not read yet"),
    "image": _("image"),
    "index": _("images for several platforms"),
    "artifact": _("no image: can't be deployed"),
}

#: What it means that this signal ended it.
SIGNALS: Final[dict[str, Text]] = {
    "SIGABRT": _("It gave up by itself, after an error in its own state. Its last lines mostly say which."),
    "SIGBUS": _("It read memory that is not there, such as a file that became shorter meanwhile."),
    "SIGFPE": _("It divided by zero or the like: a fault in the program."),
    "SIGILL": _("It has instructions that this processor does not know. Build the image for the hosts' processor."),
    "SIGINT": _("It was interrupted, or interrupted itself."),
    "SIGKILL": _("It was killed from outside. If it was near the limit of its memory, deploy with more."),
    "SIGPIPE": _("It wrote to a connection that the other side had closed, and did not expect that."),
    "SIGSEGV": _("It reached into memory that is not its own: a fault in the program or a library of it."),
    "SIGTERM": _("It was asked to end, from inside its container or by the host's engine, and not by you."),
}
#: What these exit codes mean nearly everywhere.
EXIT_CODES: Final[dict[int, Text]] = {
    0: _("It ended as if all were done. A service must stay in the foreground: it must not start a daemon and end."),
    1: _("It found an error that it could not go on with. Its last lines mostly say which."),
    2: _("Mostly: an option or an argument of its command is wrong."),
    126: _("Its command is there, but could not be run: is it executable, and is it a program?"),
    127: _("A command was not found. Look whether the image has it, and at PATH."),
}
OUT_OF_MEMORY: Final[Text] = _("The kernel ended it, since it used more memory than the release has. Deploy with more.")
#: Why a capsule has no log.
NO_LOGS: Final[dict[str, Text]] = {
    NoLog.NEVER_STARTED: _("Its container never started, so it wrote nothing."),
    NoLog.WROTE_NOTHING: _("It wrote nothing to its standard output or standard error."),
    NoLog.GONE: _("Its container was gone before its log could be read."),
    NoLog.HOST_SILENT: _("Its host does not answer, so its log could not be read."),
    NoLog.ENGINE_FAILED: _("Its host's container engine did not give its log."),
}


def exit_meaning(exit_code: int | None, signal: str, *, out_of_memory: bool) -> str:
    """What to make of how a process ended; empty where there is nothing to say."""
    if out_of_memory:
        return str(OUT_OF_MEMORY)
    return str(SIGNALS.get(signal, "") or ("" if exit_code is None else EXIT_CODES.get(exit_code, "")))


#: Why a host takes no instance, as apps.deployments.scheduler.filters says it.
REASONS: Final[dict[str, Text]] = {
    "not ready": _("not ready"),
    "cordoned": _("takes no new instances"),
    "draining": _("is being emptied"),
    "its disk is nearly full": _("its disk is nearly full"),
    "the image is for another platform": _("the image is for another platform"),
    "dedicated to another tenant": _("dedicated to another tenant"),
    "runs one of this release already": _("runs one of this release already"),
    "not enough memory": _("not enough memory"),
    "not enough CPU": _("not enough CPU"),
    "no free port": _("no free port"),
}
#: What such a reason begins with; the rest of it is the asker's own rule.
REASONS_BEGIN: Final[dict[str, Text]] = {
    "label: not ": _("its labels break the rule:"),
    "engine older than ": _("its engine is older than"),
    "does not run ": _("does not run the app"),
}
WEIGHERS: Final[dict[str, Text]] = {
    "untried": _("did not just fail"),
    "own_hosts": _("your own hosts"),
    "zone": _("spread over zones"),
    "spread": _("spread over hosts"),
    "free_memory": _("free memory"),
    "idle_cpu": _("idle CPU"),
    "binpack": _("fills up hosts"),
    "image": _("has the image"),
}


def reason_of_host(reason: str) -> str:
    """In the reader's language; a reason that has no words here yet stays as it is."""
    for begin, words in REASONS_BEGIN.items():
        if reason.startswith(begin):
            return f"{words} {reason.removeprefix(begin)}"
    return str(REASONS.get(reason, reason))


#: What the engine says about these names hosts and addresses, which are not a tenant's business.
_OF_THE_PLATFORM = ("engine.", "host.", "hosts.")


def speaks_english() -> bool:
    return (get_language() or "en").startswith("en")


def sentence(code: str, detail: str) -> str:
    """Why, for a tenant: the service's sentence, led by ours where the reader's language is another."""
    ours = str(CODES.get(code, ""))
    if not detail or (ours and code.startswith(_OF_THE_PLATFORM)):
        return ours
    if speaks_english() or not ours:
        return detail
    return f"{ours} ({detail})"


def explain(error: BerthError) -> str:
    return sentence(error.code, error.detail)


#: Why a version stays; see apps.deployments.keeping.
KEPT: Final[dict[str, Text]] = {
    "about": _("it belongs to %(tag)s"),
    "days": _("pushed within %(days)s days"),
    "last": _("one of the newest %(count)s"),
    "moving": _("a tag that moves from version to version"),
    "off": _("the clean-up of tags is off"),
    "release": _("release %(numbers)s can be gone back to"),
    "replaced": _("its tag was pushed anew within a day"),
    "same": _("the same image as %(tag)s"),
    "tag": _("matches %(pattern)s"),
    "use": _("in use: %(what)s"),
    "young": _("pushed just now"),
}
