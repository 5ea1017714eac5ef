-- The token of the attempt that may write about the round.
ALTER TABLE rounds RENAME COLUMN owner TO token;

-- Everything random in the round. Empty in older rows: the last 64 bits of the id.
ALTER TABLE rounds ADD COLUMN seed BIGINT;

-- Whose adapters it trains; only a server of the same model can go on with it. Empty in older rows.
ALTER TABLE rounds ADD COLUMN model_name TEXT;
ALTER TABLE rounds ADD COLUMN model_fingerprint TEXT;

-- How often a server took it up, the first time included, and how often since its last new step without giving it back.
ALTER TABLE rounds ADD COLUMN attempts BIGINT NOT NULL DEFAULT 1;
ALTER TABLE rounds ADD COLUMN stalled BIGINT NOT NULL DEFAULT 0;
