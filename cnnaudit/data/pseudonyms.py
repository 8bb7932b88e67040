"""Names of images that tell nobody who is on them."""

from __future__ import annotations

import hashlib
import os
import re
import secrets

__all__ = ["Pseudonyms"]

_VARIABLE = "CNNAUDIT_SALT"
_ERROR = re.compile(r"cannot be read \((?:(\w*(?:Error|error)): )?.*\)", re.DOTALL)


class Pseudonyms:
    """Salted hashes of what images are called.

    The salt is drawn anew for every audit and kept nowhere, so that nobody can try names until one fits. Who wants to
    find an image again sets ``CNNAUDIT_SALT`` and keeps it secret, or has the names shown.
    """

    def __init__(self) -> None:
        salt = os.environ.get(_VARIABLE)
        self._key = hashlib.blake2b(salt.encode()).digest() if salt else secrets.token_bytes(64)

    def told(self, name: str, reason: str) -> str:
        """Return what is wrong with an image without its name, also where the reason repeats that.

        What an error of a library or of the user's own code says is left out: it often names the file.
        """
        digest = hashlib.blake2b(name.encode(errors="surrogatepass"), key=self._key, digest_size=6).hexdigest()
        hidden = f"image {digest}"
        reason = _ERROR.sub(lambda found: f"cannot be read ({found[1]})" if found[1] else "cannot be read", reason)
        for known in (name, name.rpartition("/")[2]):
            reason = reason.replace(known, hidden)
        return f"{hidden} {reason}"
