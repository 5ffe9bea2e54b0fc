"""Who may do what: bearer keys, whose hashes alone the server knows."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import Literal

from .problems import ProblemError
from .settings import Key

Permission = Literal["read", "search", "change", "admin"]


def check(keys: Mapping[str, Key], token: str | None, permission: Permission | None) -> str | None:
    """The name of the key ``token``, or None where there are no keys.

    Args:
        keys: by name.
        token: that the client has sent, or None.
        permission: that it needs; None takes any key.

    Raises:
        ProblemError: 401 without a key that is known, 403 without the permission.
    """
    if not keys:
        if permission in ("change", "admin"):
            raise ProblemError(
                403,
                "permission",
                f"this needs a key with the permission {permission!r}; the server has no keys",
            )
        return None
    given = hashlib.sha256((token or "").encode("utf-8", "surrogatepass")).hexdigest()
    # All are compared, each in constant time: neither the key nor its place in the list shows in the time.
    names = [name for name, key in keys.items() if hmac.compare_digest(given, key.sha256)]
    if token is None or not names:
        scheme = {"WWW-Authenticate": "Bearer"}
        raise ProblemError(
            401, "key", "send a key that this server knows: Authorization: Bearer KEY", headers=scheme
        )
    name = names[0]
    if permission is not None and not getattr(keys[name], permission):
        raise ProblemError(403, "permission", f"this key has not the permission {permission!r}")
    return name
