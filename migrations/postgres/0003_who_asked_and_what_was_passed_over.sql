-- A fingerprint of the client, so that no single one fills a round. Empty in older rows.
ALTER TABLE questions ADD COLUMN client TEXT;
-- Rounds read who asked each text first: the index has it.
DROP INDEX questions_to_learn_by_text;
CREATE INDEX questions_to_learn_by_text ON questions (text_hash, created_at, id, client) WHERE learn;

-- Why a round passed a question over when its turn came.
ALTER TABLE round_questions ADD COLUMN set_aside TEXT;
