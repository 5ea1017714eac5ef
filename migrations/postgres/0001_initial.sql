-- Texts hold no NUL here (the program escapes it), JSON is kept as it was written: nothing inside it is searched,
-- and JSONB would change numbers and refuse \u0000. Times are in microseconds.

CREATE TABLE questions (
    id UUID PRIMARY KEY,
    text TEXT NOT NULL,
    -- SHA-256 of the text without the white space around it: questions with the same one count as the same text.
    text_hash BYTEA NOT NULL,
    learn BOOLEAN NOT NULL,
    metadata JSON,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX questions_to_learn_by_text ON questions (text_hash, created_at, id) WHERE learn;
CREATE INDEX questions_to_learn_by_time ON questions (created_at) WHERE learn;

CREATE TABLE answers (
    id UUID PRIMARY KEY,
    question_id UUID NOT NULL REFERENCES questions (id),
    adapter_version TEXT NOT NULL,
    answer TEXT,
    text TEXT NOT NULL,
    votes JSON NOT NULL,
    samples BIGINT NOT NULL,
    majority_ratio DOUBLE PRECISION NOT NULL,
    prompt_tokens BIGINT NOT NULL,
    completion_tokens BIGINT NOT NULL,
    timings JSON NOT NULL,
    parameters JSON NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX answers_by_question ON answers (question_id);

CREATE TABLE rounds (
    id UUID PRIMARY KEY,
    state TEXT NOT NULL,
    started_by TEXT NOT NULL,
    recipe JSON NOT NULL,
    questions BIGINT NOT NULL,
    held_back BIGINT NOT NULL,
    step BIGINT NOT NULL,
    steps BIGINT NOT NULL,
    parent_version TEXT NOT NULL,
    candidate_version TEXT,
    verdict JSON,
    reason TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    started_at TIMESTAMPTZ,
    finished_at TIMESTAMPTZ,
    -- The server that runs the round, and until when the others leave it alone.
    owner TEXT NOT NULL,
    lease_expires_at TIMESTAMPTZ NOT NULL,
    -- A round has ended exactly when its state is final.
    CHECK ((finished_at IS NOT NULL) = (state IN ('promoted', 'rejected', 'cancelled', 'failed')))
);
-- Never two rounds at once: all that have not ended share one key.
CREATE UNIQUE INDEX rounds_one_active ON rounds ((finished_at IS NULL)) WHERE finished_at IS NULL;
CREATE INDEX rounds_by_time ON rounds (created_at, id);

CREATE TABLE round_steps (
    round_id UUID NOT NULL REFERENCES rounds (id),
    step BIGINT NOT NULL,
    metrics JSON NOT NULL,
    PRIMARY KEY (round_id, step)
);

-- Carries the text itself: a round may learn questions that are not in the table of questions.
CREATE TABLE round_questions (
    round_id UUID NOT NULL REFERENCES rounds (id),
    question_id UUID NOT NULL,
    text TEXT NOT NULL,
    text_hash BYTEA NOT NULL,
    held_back BOOLEAN NOT NULL,
    before_answer TEXT,
    before_ratio DOUBLE PRECISION,
    after_answer TEXT,
    after_ratio DOUBLE PRECISION,
    PRIMARY KEY (round_id, question_id)
);
CREATE INDEX round_questions_by_text ON round_questions (text_hash, round_id);

-- No reference to rounds: an adapter may come from another installation with its round's id.
CREATE TABLE adapters (
    version TEXT PRIMARY KEY,
    parent_version TEXT NOT NULL,
    round_id UUID,
    bytes BIGINT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX adapters_by_time ON adapters (created_at, version);

CREATE TABLE aliases (
    name TEXT PRIMARY KEY,
    version TEXT NOT NULL
);
