-- Labelled questions that versions are examined with. No round learns from a question that is in one of these sets.
CREATE TABLE evaluation_sets (
    name TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE evaluation_items (
    set_name TEXT NOT NULL REFERENCES evaluation_sets (name) ON DELETE CASCADE,
    place INTEGER NOT NULL,
    question TEXT NOT NULL,
    -- As that of a question that is asked.
    text_hash BLOB NOT NULL,
    answer TEXT NOT NULL,
    PRIMARY KEY (set_name, place)
) STRICT;
CREATE INDEX evaluation_items_by_text ON evaluation_items (text_hash);

-- A round that waits for a person has not ended, and the next one may begin.
DROP INDEX rounds_one_active;
CREATE UNIQUE INDEX rounds_one_active ON rounds ((finished_at IS NULL)) WHERE finished_at IS NULL AND state <> 'held';
