"""Tokens: issuing, authenticating, revoking, purging, and moving them to another secret key.

A value is shown once, when it is made. It is stored encrypted, and found by a keyed digest.
"""

from platform_db.tokens.authentication import AuthenticatedToken, authenticate
from platform_db.tokens.finding import find_interactive_session, find_token, list_tokens
from platform_db.tokens.issuing import grant, issue, issue_interactive_session_secret, request
from platform_db.tokens.keys import KeyReport, KeyState, KeyUse, key_uses, report_keys
from platform_db.tokens.lifecycle import purge, revoke, revoke_expired
from platform_db.tokens.rotation import Rotation, rotate

__all__ = [
    "AuthenticatedToken",
    "KeyReport",
    "KeyState",
    "KeyUse",
    "Rotation",
    "authenticate",
    "find_interactive_session",
    "find_token",
    "grant",
    "issue",
    "issue_interactive_session_secret",
    "key_uses",
    "list_tokens",
    "purge",
    "report_keys",
    "request",
    "revoke",
    "revoke_expired",
    "rotate",
]
