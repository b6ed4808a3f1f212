CREATE SEQUENCE platform.quota_version AS BIGINT;

ALTER TABLE platform.workflow_resource
    ADD COLUMN version BIGINT DEFAULT '0' NOT NULL,
    ADD COLUMN delta BIGINT DEFAULT '0' NOT NULL,
    ADD COLUMN stale BOOLEAN DEFAULT 'false' NOT NULL,
    ADD COLUMN method TEXT,
    ADD COLUMN apparent BOOLEAN DEFAULT 'false' NOT NULL;

-- squawk-ignore ban-drop-constraint
ALTER TABLE platform.quota_reservation DROP CONSTRAINT ck_quota_reservation_amount_positive;

CREATE TABLE platform.service_resource (
    owner_id UUID NOT NULL,
    service_id UUID NOT NULL,
    resource_id UUID NOT NULL,
    quota_used BIGINT DEFAULT '0' NOT NULL,
    measured_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_service_resource PRIMARY KEY (owner_id, service_id, resource_id),
    CONSTRAINT fk_service_resource_owner_id_service_id FOREIGN KEY(owner_id, service_id) REFERENCES platform.service (owner_id, id_) ON DELETE CASCADE,
    CONSTRAINT ck_service_resource_used_not_negative CHECK (quota_used >= 0),
    CONSTRAINT fk_service_resource_resource_id FOREIGN KEY(resource_id) REFERENCES platform.resource (id_)
);
