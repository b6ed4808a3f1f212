DROP FUNCTION platform.read_task_record;
