"""`StoredActor`: an actor in documents and events, for what is done in its name later."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from actionengine.context import Actor, ActorType


class StoredActor(BaseModel):
    """An actor with the rights that its token granted at the time, and the actor that it acted for."""

    model_config = ConfigDict(frozen=True)

    type: ActorType
    id: str
    roles: tuple[str, ...] = ()
    permissions: tuple[str, ...] = ()
    on_behalf_of: StoredActor | None = None

    @classmethod
    def of(cls, actor: Actor) -> StoredActor:
        """Return the stored form of an actor."""
        principal = actor.on_behalf_of
        return cls(
            type=actor.type,
            id=actor.id,
            roles=actor.roles,
            permissions=actor.permissions,
            on_behalf_of=cls.of(principal) if principal is not None else None,
        )

    @property
    def actor(self) -> Actor:
        """The actor of this stored form."""
        principal = self.on_behalf_of
        return Actor(self.type, self.id, self.roles, self.permissions, principal.actor if principal else None)

    @property
    def names(self) -> tuple[str, ...]:
        """The chain as `type:id`, this actor first."""
        behind = self.on_behalf_of.names if self.on_behalf_of is not None else ()
        return (f"{self.type}:{self.id}", *behind)
