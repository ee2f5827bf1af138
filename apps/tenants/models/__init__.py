from apps.tenants.models.accounts import ApiToken, User
from apps.tenants.models.tenants import Membership, Plan, Quota, Role, Tenant

__all__ = ["ApiToken", "Membership", "Plan", "Quota", "Role", "Tenant", "User"]
