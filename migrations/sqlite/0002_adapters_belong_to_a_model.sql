-- The model that an adapter was made for. Empty in rows of the first version, which did not write it down.
ALTER TABLE adapters ADD COLUMN model_name TEXT;
ALTER TABLE adapters ADD COLUMN model_fingerprint TEXT;

-- Every model has names of its own. Those of the first version are nobody's (''), until a model takes them over.
-- SQLite cannot change a primary key, so the table is made anew.
CREATE TABLE aliases_of_models (
    model TEXT NOT NULL,
    name TEXT NOT NULL,
    version TEXT NOT NULL,
    PRIMARY KEY (model, name)
) STRICT;
INSERT INTO aliases_of_models (model, name, version) SELECT '', name, version FROM aliases;
DROP TABLE aliases;
ALTER TABLE aliases_of_models RENAME TO aliases;
