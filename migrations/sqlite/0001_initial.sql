-- The same tables as in PostgreSQL. Identifiers are the 16 bytes of the UUID, times are integers: microseconds since
-- 1970 (UTC). Texts hold no NUL here (the program escapes it), JSON is kept as it was written.

CREATE TABLE questions (
    id BLOB PRIMARY KEY,
    text TEXT NOT NULL,
    -- SHA-256 of the text without the white space around it: questions with the same one count as the same text.
    text_hash BLOB NOT NULL,
    learn INTEGER NOT NULL,
    metadata TEXT,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX questions_to_learn_by_text ON questions (text_hash, created_at, id) WHERE learn;
CREATE INDEX questions_to_learn_by_time ON questions (created_at) WHERE learn;

CREATE TABLE answers (
    id BLOB PRIMARY KEY,
    question_id BLOB NOT NULL REFERENCES questions (id),
    adapter_version TEXT NOT NULL,
    answer TEXT,
    text TEXT NOT NULL,
    votes TEXT NOT NULL,
    samples INTEGER NOT NULL,
    majority_ratio REAL NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    timings TEXT NOT NULL,
    parameters TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX answers_by_question ON answers (question_id);

CREATE TABLE rounds (
    id BLOB PRIMARY KEY,
    state TEXT NOT NULL,
    started_by TEXT NOT NULL,
    recipe TEXT NOT NULL,
    questions INTEGER NOT NULL,
    held_back INTEGER NOT NULL,
    step INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    parent_version TEXT NOT NULL,
    candidate_version TEXT,
    verdict TEXT,
    reason TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    finished_at INTEGER,
    -- The server that runs the round, and until when the others leave it alone.
    owner TEXT NOT NULL,
    lease_expires_at INTEGER NOT NULL,
    -- A round has ended exactly when its state is final.
    CHECK ((finished_at IS NOT NULL) = (state IN ('promoted', 'rejected', 'cancelled', 'failed')))
) STRICT;
-- Never two rounds at once: all that have not ended share one key.
CREATE UNIQUE INDEX rounds_one_active ON rounds ((finished_at IS NULL)) WHERE finished_at IS NULL;
CREATE INDEX rounds_by_time ON rounds (created_at, id);

CREATE TABLE round_steps (
    round_id BLOB NOT NULL REFERENCES rounds (id),
    step INTEGER NOT NULL,
    metrics TEXT NOT NULL,
    PRIMARY KEY (round_id, step)
) STRICT;

-- Carries the text itself: a round may learn questions that are not in the table of questions.
CREATE TABLE round_questions (
    round_id BLOB NOT NULL REFERENCES rounds (id),
    question_id BLOB NOT NULL,
    text TEXT NOT NULL,
    text_hash BLOB NOT NULL,
    held_back INTEGER NOT NULL,
    before_answer TEXT,
    before_ratio REAL,
    after_answer TEXT,
    after_ratio REAL,
    PRIMARY KEY (round_id, question_id)
) STRICT;
CREATE INDEX round_questions_by_text ON round_questions (text_hash, round_id);

-- No reference to rounds: an adapter may come from another installation with its round's id.
CREATE TABLE adapters (
    version TEXT PRIMARY KEY,
    parent_version TEXT NOT NULL,
    round_id BLOB,
    bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE INDEX adapters_by_time ON adapters (created_at, version);

CREATE TABLE aliases (
    name TEXT PRIMARY KEY,
    version TEXT NOT NULL
) STRICT;
