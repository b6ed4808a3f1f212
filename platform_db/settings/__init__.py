"""Reading the settings once per process.

The class with the settings' names, defaults and units is :class:`platform_db.settings.Settings`. It stands
in a module of its own because pydantic takes longer to import than all of SQLAlchemy's ORM: whoever only
imports the models does not pay for it.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from platform_db import errors

if TYPE_CHECKING:
    from platform_db.settings.variables import Settings


@functools.cache
def get_settings() -> Settings:
    """Return the settings of this process, read from the environment at the first call.

    :raises errors.InvalidSetting: names the variables that cannot be used, never their values.
    :raises errors.SecretKeyError: a secret key is not 32 bytes in base64.
    """
    from pydantic import ValidationError

    from platform_db.settings.environment import PREFIX
    from platform_db.settings.variables import Settings

    try:
        return Settings()
    except ValidationError as error:
        problems = "; ".join(
            f"{PREFIX}{str(problem['loc'][0]).upper()}: {problem['msg']}"
            for problem in error.errors(include_input=False, include_url=False, include_context=False)
        )
        raise errors.InvalidSetting(problems) from None


def reset_settings() -> None:
    """Forget the settings, so that the next :func:`get_settings` reads the environment again."""
    get_settings.cache_clear()
