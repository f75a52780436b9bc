"""Where the pages are found."""

from __future__ import annotations

from django.urls import path

from run_pages import views

app_name = "run_pages"

urlpatterns = [
    path("", views.all_runs, name="all"),
    path("<uuid:run_id>/", views.one_run, name="one"),
    path("<uuid:run_id>/changes/", views.changes, name="changes"),
]
