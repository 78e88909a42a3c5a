"""The callers: a process names its person, and over HTTP each request has a token.

Both are an agent that works for a person. Its rights are those of both; each has its roles in storage.
"""

import os
import time

import jwt
from mcp.server.auth.provider import AccessToken

from actionengine import Actor, Engine, RequestContext, actor_from_claims
from actionengine.mcp import Identify, MCPRequest

AGENT = "helper-bot"
LIFETIME = 8 * 3600
"""Seconds for which a token is valid."""


def identify_process(engine: Engine) -> Identify:
    """Identify each caller as the agent of the person of this process: `MCP_PERSON` of the tenant `MCP_TENANT`.

    Over stdio there is no authorization: the client has started this process, with the rights of its user.
    """
    slug = os.environ.get("MCP_TENANT", "acme")
    person = os.environ.get("MCP_PERSON", "carla")

    async def identify(request: MCPRequest) -> RequestContext:
        tenant = (await engine.resolve_tenant_async(slug)).unwrap()
        return RequestContext(tenant, Actor.ai(AGENT, on_behalf_of=Actor.human(person)))

    return identify


def identify_token(engine: Engine) -> Identify:
    """Identify the caller by the claims of the token that `Tokens` has verified."""

    async def identify(request: MCPRequest) -> RequestContext:
        if request.token is None or request.token.claims is None:
            raise PermissionError("the request has no token")
        claims = request.token.claims
        tenant = (await engine.resolve_tenant_async(claims["tenant"])).unwrap()
        return RequestContext(tenant, actor_from_claims(claims))

    return identify


class Tokens:
    """Signs and verifies tokens with one secret. A real host verifies those of its authorization server.

    `verify_token` makes it a token verifier of the SDK. A token names the person (`sub`), the agent that acts for it
    (`act`, RFC 8693), the tenant, and this server (`aud`).
    """

    def __init__(self, secret: str, server_url: str) -> None:
        self._secret = secret
        self.server_url = server_url

    def sign(self, tenant: str, person: str, agent: str = AGENT) -> str:
        """Return a token for an agent that acts for a person of a tenant."""
        claims = {
            "tenant": tenant,
            "sub": person,
            "act": {"sub": agent},
            "aud": self.server_url,
            "exp": int(time.time()) + LIFETIME,
        }
        return jwt.encode(claims, self._secret, algorithm="HS256")

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return the claims of a valid token of this server, or None."""
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],
                audience=self.server_url,
                options={"require": ["exp", "sub", "act", "tenant"]},
            )
            agent = str(claims["act"]["sub"])
        except (jwt.InvalidTokenError, LookupError, TypeError):
            return None
        return AccessToken(
            token=token,
            client_id=agent,
            scopes=[],
            expires_at=claims["exp"],
            resource=self.server_url,
            subject=claims["sub"],
            claims=claims,
        )
