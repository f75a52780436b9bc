"""Users with permissions of Baton, and clients in which they are logged in."""

from __future__ import annotations

from django.contrib.auth.models import Permission, User
from django.test import Client


def user_with(*permissions: str, is_staff: bool = True, is_superuser: bool = False) -> User:
    """Somebody with these permissions, a member of staff unless said otherwise."""
    user = User.objects.create(
        username=f"user{User.objects.count()}", is_staff=is_staff, is_superuser=is_superuser, password="x"
    )
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions, content_type__app_label="baton"))
    return user


def client_of(user: User) -> Client:
    """A client in which somebody is logged in."""
    client = Client()
    client.force_login(user)
    return client


def client_with(*permissions: str, is_staff: bool = True, is_superuser: bool = False) -> Client:
    """A client in which somebody with these permissions is logged in."""
    return client_of(user_with(*permissions, is_staff=is_staff, is_superuser=is_superuser))
