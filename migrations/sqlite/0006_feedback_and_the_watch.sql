-- What a client says of an answer; the newest counts.
CREATE TABLE feedback (
    answer_id BLOB PRIMARY KEY REFERENCES answers (id) ON DELETE CASCADE,
    good INTEGER NOT NULL,
    comment TEXT,
    created_at INTEGER NOT NULL
) STRICT;

-- What a version has shown to clients.
CREATE INDEX answers_by_version ON answers (adapter_version, created_at, id);

-- How the version that a round promoted does on live traffic. Empty in rows of rounds that were promoted before there was
-- a watch, and of those that promoted nothing.
ALTER TABLE rounds ADD COLUMN watch TEXT;
CREATE INDEX rounds_watched ON rounds (finished_at) WHERE watch ->> 'state' = 'watching';

-- Whether it was the watch that pointed the name to what it stands for.
ALTER TABLE aliases ADD COLUMN rolled_back INTEGER NOT NULL DEFAULT 0;
