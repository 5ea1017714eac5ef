-- The model that an adapter was made for. Empty in rows of the first version, which did not write it down.
ALTER TABLE adapters ADD COLUMN model_name TEXT;
ALTER TABLE adapters ADD COLUMN model_fingerprint TEXT;

-- Every model has names of its own. Those of the first version are nobody's (''), until a model takes them over.
ALTER TABLE aliases ADD COLUMN model TEXT NOT NULL DEFAULT '';
ALTER TABLE aliases ALTER COLUMN model DROP DEFAULT;
ALTER TABLE aliases DROP CONSTRAINT aliases_pkey;
ALTER TABLE aliases ADD PRIMARY KEY (model, name);
