"""The Django project: its settings in code, and its URLs."""

from collections.abc import Callable, Mapping
from types import ModuleType

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.urls import path as url

from actionengine.http import RequestRefused, to_response


class Project(WSGIHandler):  # type: ignore[misc]
    """Django's WSGI application, with a view for each path such as `/api/changes/{change_id}`.

    The settings are of the process, as always in Django; the views are of one application.
    """

    def __init__(self, views: Mapping[str, Callable[..., HttpResponse]]) -> None:
        if not settings.configured:
            settings.configure(ALLOWED_HOSTS=["*"], MIDDLEWARE=[], ROOT_URLCONF=__name__)
            django.setup()
        super().__init__()
        self._urls = ModuleType("urls")
        vars(self._urls).update(
            urlpatterns=[url(path[1:].replace("{", "<").replace("}", ">"), views[path]) for path in views],
            handler404=lambda request, exception: _refused(404),
            handler500=lambda request: _refused(500),
        )

    def get_response(self, request: HttpRequest) -> HttpResponse:
        request.urlconf = self._urls
        return super().get_response(request)


def _refused(status: int) -> HttpResponse:
    response = to_response(RequestRefused(status))
    return HttpResponse(response.body, status=response.status, headers=dict(response.headers))
