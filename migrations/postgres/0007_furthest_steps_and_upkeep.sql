-- The furthest step that a round has come to: one that begins anew is further again only beyond it.
ALTER TABLE rounds ADD COLUMN furthest BIGINT NOT NULL DEFAULT 0;
UPDATE rounds SET furthest = step;

-- What the program has done once to the rows of older versions, by name.
CREATE TABLE upkeep (
    name TEXT PRIMARY KEY
);
