"""Tables of the ledger, and how an older file gets them. Nothing here is ever changed, only added to."""

SUFFIX = ".runs.sqlite"
APPLICATION_ID = 0x5AE1A6E2

_RUNS = (
    # state: running, stopped, done, failed; one that is running without a process is interrupted (asking.runs)
    """
    CREATE TABLE runs (
        run TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        store TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        config TEXT NOT NULL,
        settings TEXT NOT NULL,
        state TEXT NOT NULL,
        why TEXT,
        pid INTEGER NOT NULL,
        n_total INTEGER,
        n_done INTEGER NOT NULL,
        counts TEXT NOT NULL,
        seconds REAL NOT NULL,
        started_at TEXT NOT NULL,
        changed_at TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX runs_of_store ON runs (store)",
    # a question and, once there is one, its answer: compressed JSON of clients.base.Request and Reply
    """
    CREATE TABLE requests (
        key TEXT PRIMARY KEY,
        client TEXT NOT NULL,
        request BLOB NOT NULL,
        reply BLOB
    )
    """,
    # each time a question was sent, or handed in with a batch. state: sent, answered, failed, uncertain.
    # tokens are null where the provider did not tell, usd where it did not or the price is unknown
    """
    CREATE TABLE calls (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL REFERENCES requests (key),
        run TEXT NOT NULL REFERENCES runs (run),
        feature INTEGER NOT NULL,
        purpose TEXT NOT NULL,
        batch INTEGER REFERENCES batches (id),
        state TEXT NOT NULL,
        reason TEXT,
        detail TEXT,
        outcome TEXT,
        again INTEGER NOT NULL,
        input_estimate INTEGER NOT NULL,
        output_estimate INTEGER NOT NULL,
        input_tokens INTEGER,
        output_tokens INTEGER,
        cached_tokens INTEGER,
        written_tokens INTEGER,
        usd REAL,
        sent_at TEXT NOT NULL,
        done_at TEXT,
        seconds REAL
    )
    """,
    "CREATE INDEX calls_of_key ON calls (key, id)",
    "CREATE INDEX calls_of_run ON calls (run, state)",
    "CREATE INDEX calls_of_batch ON calls (batch) WHERE batch IS NOT NULL",
    # state: handing_in (the provider's id is not known), handed_in, collected, lost (the provider does not have it)
    """
    CREATE TABLE batches (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        mark TEXT UNIQUE,
        run TEXT NOT NULL REFERENCES runs (run),
        client TEXT NOT NULL,
        batch_id TEXT,
        state TEXT NOT NULL,
        n INTEGER NOT NULL,
        made_at TEXT NOT NULL,
        changed_at TEXT NOT NULL
    )
    """,
)
MIGRATIONS: tuple[tuple[str, ...], ...] = (_RUNS,)
"""Statements that lead from schema number i to i + 1; only ever appended to."""
