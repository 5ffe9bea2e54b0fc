"""What a route asks before it reads a body: a key with a permission, and not too many requests."""

from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.params import Depends as Dependency
from fastapi.security import HTTPBearer
from starlette.requests import HTTPConnection

from ..keys import Permission, check
from ..service import Service


async def service_of(request: Request) -> Service:
    """The service behind the routes; asynchronous, since FastAPI runs other functions on threads."""
    return cast(Service, request.app.state.service)


ServiceOf = Annotated[Service, Depends(service_of)]


def needs(permission: Permission | None) -> Dependency:
    """The dependency of routes that need a permission; None takes any key."""
    return cast(Dependency, Security(_Access(permission)))


class _Access(HTTPBearer):
    """One dependency without others of its own, each of which FastAPI would solve for every request."""

    def __init__(self, permission: Permission | None) -> None:
        described = "A key of the server, where it has keys."
        super().__init__(scheme_name=HTTPBearer.__name__, description=described, auto_error=False)
        self._permission = permission

    async def __call__(self, request: HTTPConnection) -> None:
        """Name the key in the state of the request, and count the request.

        Raises:
            ProblemError: 401 or 403 as for ``check``, 429 as for ``Rates.take``.
        """
        service: Service = request.app.state.service
        given = await super().__call__(request)
        name = check(service.settings.keys, None if given is None else given.credentials, self._permission)
        request.scope["state"]["key"] = name
        address = "?" if request.client is None else request.client.host
        service.rates.take(address if name is None else f"key {name}")
