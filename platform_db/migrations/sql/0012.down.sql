DROP FUNCTION platform.change_workflow_status(
    uuid, uuid, platform.run_status, text[], text, text[], text[], integer
);

DROP FUNCTION platform.change_job_status(
    uuid, uuid, platform.job_status, text[], text, text[], text[], integer
);

DROP FUNCTION platform.change_interactive_session_status(
    uuid, uuid, platform.run_status, text[], text, text[], text[], integer
);

DROP FUNCTION platform.change_service_status(
    uuid, uuid, platform.run_status, text[], text, text[], text[], integer
);

DROP FUNCTION platform.change_user_token_status(
    uuid, uuid, platform.user_token_status, text[], text, text[], text[], integer
);

DROP FUNCTION platform.change_workspace_retention_rule_status(
    uuid, uuid, platform.workspace_retention_rule_status, text[], text, text[], text[], integer
);
