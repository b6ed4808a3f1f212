"""The audit log: recording, reading, sealing, verifying and pruning it."""

from platform_db.audit.chain import export_seals
from platform_db.audit.reading import export_audit, list_audit
from platform_db.audit.recording import SERVICE, record_action, recorded_as, set_origin
from platform_db.audit.retention import prune_audit_log, prune_seals
from platform_db.audit.sealing import SealingResult, seal_audit_log
from platform_db.audit.signing import public_key
from platform_db.audit.verification import VerificationResult, verify_audit_log

__all__ = [
    "SERVICE",
    "SealingResult",
    "VerificationResult",
    "export_audit",
    "export_seals",
    "list_audit",
    "prune_audit_log",
    "prune_seals",
    "public_key",
    "record_action",
    "recorded_as",
    "seal_audit_log",
    "set_origin",
    "verify_audit_log",
]
