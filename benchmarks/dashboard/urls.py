"""The pages, and one by which the measuring process empties the server's cache."""

from __future__ import annotations

from django.contrib import admin
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.urls import path

from benchmarks.dashboard.site import FORGET


def forget(request: HttpRequest) -> HttpResponse:
    """Forget every graph that was laid out."""
    cache.clear()
    return HttpResponse("forgotten", content_type="text/plain")


urlpatterns = [path("admin/", admin.site.urls), path(FORGET, forget)]
