"""How values look: states as word, shape and colour, times, JSON, links."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import django
from django.contrib import admin
from django.db.models import Model
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from baton.dashboard.shown import Bar, shape, writable
from baton.explain.words import clock, number

MOST_CHARACTERS = 20_000
_PRETTY_UP_TO = 200_000
NOTHING = "—"
HAS_LIST_BREADCRUMBS = django.VERSION >= (6, 1)
"""The admin's breadcrumbs are a list from 6.1 on."""


def state(value: str, label: Any) -> SafeString:
    """A state as its word with its shape, which has its colour."""
    return format_html(
        '<span class="baton b-state b-{0}"><svg class="b-icon" aria-hidden="true"><use href="#b-{0}"></use></svg>'
        "{1}</span>",
        shape(value),
        label,
    )


def progress_bar(states: Mapping[str, int], *, below: SafeString | None = None) -> SafeString:
    """A bar of states, and below it, where nothing else is given, how many completed and the two worst counts."""
    bar = Bar.of(states)
    if not bar.total:
        return below or format_html("{}", NOTHING)
    done = _("{done} of {total}").format(done=number(bar.completed), total=number(bar.total))
    if bar.rest:
        done = f"{done} · {bar.rest.replace(', ', ' · ')}"
    parts = format_html_join(
        "",
        '<rect class="b-{}" x="{}" width="{}" height="8"></rect>',
        ((part.state, part.x, part.width) for part in bar.parts),
    )
    return format_html(
        '<span class="baton b-progress"><svg class="b-bar" role="img" aria-label="{}" width="100%" height="8">'
        "{}</svg>{}</span>",
        bar.label,
        parts,
        below or done,
    )


def time(model: type[Model], field: str) -> Callable[[Any], Any]:
    """A column that shows a time to the second, in the current time zone."""

    @admin.display(description=model._meta.get_field(field).verbose_name, ordering=field)  # type: ignore[union-attr] # noqa: SLF001
    def shown(row: Any) -> Any:
        return moment(getattr(row, field))

    return shown


def moment(value: datetime | None) -> Any:
    """A time to the second, in the current time zone."""
    if value is None:
        return NOTHING
    return format_html('<time class="baton b-time" datetime="{}">{}</time>', value.isoformat(), clock(value))


def short_moment(value: datetime) -> SafeString:
    """The same for a column that has little room: of another day without seconds, of another year without the time."""
    local, today = timezone.localtime(value), timezone.localdate()
    if local.date() == today:
        text = clock(value)
    else:
        text = date_format(local, "j M H:i" if local.year == today.year else "j M Y")
    return format_html(
        '<time class="baton b-time" datetime="{}" title="{}">{}</time>', value.isoformat(), clock(value), text
    )


def code(text: str) -> SafeString:
    """Text as it is, cut where it is huge."""
    whole = writable(text)
    if len(whole) <= MOST_CHARACTERS:
        return format_html('<pre class="baton b-code">{}</pre>', whole)
    note = _("These are the first {shown} of {total} characters.").format(
        shown=number(MOST_CHARACTERS), total=number(len(whole))
    )
    return format_html(
        '<pre class="baton b-code">{}</pre><p class="baton b-note">{}</p>', whole[:MOST_CHARACTERS], note
    )


def as_json(value: Any) -> SafeString:
    """A value as JSON that can be read."""
    return code(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def as_stored_json(text: str) -> SafeString:
    """JSON text that can be read; what is huge is shown as it is stored."""
    if len(text) > _PRETTY_UP_TO:
        return code(text)
    try:
        return as_json(json.loads(text))
    except ValueError:
        return code(text)


def link(url: str, text: Any) -> SafeString:
    """A link."""
    return format_html('<a href="{}">{}</a>', url, text)


def link_to(row: Model, text: Any) -> SafeString:
    """A link to a row's page."""
    return link(page_of(type(row), row.pk), text)


def page_of(model: type[Model], pk: Any) -> str:
    """The address of a row's page."""
    return reverse(f"admin:baton_{model._meta.model_name}_change", args=[pk])  # noqa: SLF001 - Django's own name


def list_of(model: type[Model], **lookups: Any) -> str:
    """The address of a list under filters."""
    address = reverse(f"admin:baton_{model._meta.model_name}_changelist")  # noqa: SLF001 - Django's own name
    return f"{address}?{urlencode(lookups)}" if lookups else address


def wrapped(text: str) -> Any:
    """Text that breaks where it must, or nothing."""
    return format_html('<span class="baton b-wraps">{}</span>', text) if text else NOTHING


def joined(parts: Sequence[Any]) -> SafeString:
    """Parts in one line."""
    return format_html_join(", ", "{}", ((part,) for part in parts))


def rendered(template: str, **context: Any) -> SafeString:
    """A part of a page that has a template."""
    return render_to_string(f"admin/baton/{template}", context)
