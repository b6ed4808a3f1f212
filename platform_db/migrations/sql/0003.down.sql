DROP TABLE platform.task_record;
