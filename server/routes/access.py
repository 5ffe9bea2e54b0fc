"""What a route asks before it reads a body: a key with a permission, and not too many requests."""

from collections.abc import Callable
from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.params import Depends as Dependency
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from ..keys import Permission, check
from ..service import Service

_bearer = HTTPBearer(auto_error=False, description="A key of the server, where it has keys.")


async def service_of(request: Request) -> Service:
    """The service behind the routes; asynchronous, since FastAPI runs other functions on threads."""
    return cast(Service, request.app.state.service)


ServiceOf = Annotated[Service, Depends(service_of)]


def needs(permission: Permission | None) -> Dependency:
    """The dependency of routes that need a permission; None takes any key."""
    return cast(Dependency, Security(_checks(permission)))


def _checks(permission: Permission | None) -> Callable[..., None]:
    async def checked(
        request: Request,
        service: ServiceOf,
        given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    ) -> None:
        token = None if given is None else given.credentials
        name = check(service.settings.keys, token, permission)
        request.scope["state"]["key"] = name
        address = "?" if request.client is None else request.client.host
        service.rates.take(address if name is None else f"key {name}")

    return cast(Callable[..., None], checked)
