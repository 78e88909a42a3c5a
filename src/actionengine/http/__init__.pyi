"""The public names of actionengine.http; `_lazy.attach` reads this table."""

from actionengine.http.body_limit import MAX_BODY_BYTES as MAX_BODY_BYTES
from actionengine.http.body_limit import BodyLimit as BodyLimit
from actionengine.http.document import openapi as openapi
from actionengine.http.requests import Headers as Headers
from actionengine.http.requests import context_from_headers as context_from_headers
from actionengine.http.requests import read_json as read_json
from actionengine.http.responses import Answer as Answer
from actionengine.http.responses import ErrorAnswer as ErrorAnswer
from actionengine.http.responses import RequestRefused as RequestRefused
from actionengine.http.responses import Response as Response
from actionengine.http.responses import to_response as to_response
from actionengine.http.routes import HTTPRoute as HTTPRoute
from actionengine.http.routes import action_routes as action_routes
from actionengine.http.routes import by_path as by_path
from actionengine.http.routes import payload_of as payload_of
