DROP FUNCTION platform.estimate_runs;

DROP TABLE platform.task_outcome;
