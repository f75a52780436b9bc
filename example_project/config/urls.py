"""The example's addresses: the admin, and the root leads there."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.views import LoginView
from django.http import HttpResponse
from django.urls import include, path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    # Runs outside the admin.
    path("runs/", include("run_pages.urls")),
    # Browsers ask for it by themselves, and complain in their console.
    path("favicon.ico", lambda request: HttpResponse(status=204)),
    path("login/", LoginView.as_view(template_name="run_pages/login.html"), name="login"),
]
