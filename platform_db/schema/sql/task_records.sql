-- Buffers are out of line from 2 kB on, and not compressed: they mostly are already, and a change of another
-- column copies the pointer alone.
ALTER TABLE platform.task_record
    ALTER buffers SET STORAGE EXTERNAL,
    ALTER result_buffers SET STORAGE EXTERNAL;
