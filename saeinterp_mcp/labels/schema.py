"""Tables of the labels file, and how an older file gets them. Nothing here is ever changed, only added to."""

SUFFIX = ".labels.sqlite"
APPLICATION_ID = 0x5AE1A6E1
"""Marks a file as ours, so that somebody's other database is not taken for one."""

_HELDOUT_TESTS = (
    """
    CREATE TABLE heldout_tests (
        id INTEGER PRIMARY KEY,
        store TEXT NOT NULL,
        feature INTEGER NOT NULL,
        test TEXT NOT NULL,
        rule TEXT NOT NULL,
        "where" TEXT,
        scope TEXT,
        evidence TEXT NOT NULL,
        arguments TEXT NOT NULL,
        result TEXT NOT NULL,
        balanced_accuracy REAL,
        low REAL,
        high REAL,
        floor REAL,
        made_at TEXT NOT NULL,
        UNIQUE (store, feature, test, evidence)
    )
    """,
)
_LABELS_AND_NOTES = (
    # a test may be of a text that a judge applied, not only of a rule
    "ALTER TABLE heldout_tests RENAME COLUMN balanced_accuracy TO score",
    "ALTER TABLE heldout_tests ADD COLUMN method TEXT NOT NULL DEFAULT 'rule'",
    "ALTER TABLE heldout_tests ADD COLUMN text TEXT",
    "ALTER TABLE heldout_tests ADD COLUMN n INTEGER",
    "ALTER TABLE heldout_tests ADD COLUMN judge TEXT",
    "ALTER TABLE heldout_tests ADD COLUMN fingerprint TEXT",
    "UPDATE heldout_tests SET fingerprint = store",  # before there were lineages
    "ALTER TABLE heldout_tests ADD COLUMN precision REAL",
    "ALTER TABLE heldout_tests ADD COLUMN recall REAL",
    """
    CREATE TABLE labels (
        id INTEGER PRIMARY KEY,
        label_id TEXT NOT NULL UNIQUE,
        store TEXT NOT NULL,
        feature INTEGER NOT NULL,
        current INTEGER NOT NULL
    )
    """,
    "CREATE INDEX labels_of_feature ON labels (store, feature)",
    # `current` above is the newest revision's id here; ids grow in the order of writing
    """
    CREATE TABLE label_revisions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        label INTEGER NOT NULL REFERENCES labels (id),
        revision INTEGER NOT NULL,
        text TEXT NOT NULL,
        rule TEXT,
        scope TEXT,
        window INTEGER,
        category TEXT,
        status TEXT NOT NULL,
        importance REAL,
        confidence REAL,
        stability REAL,
        evidence TEXT NOT NULL,
        notes TEXT,
        author TEXT,
        author_kind TEXT NOT NULL,
        source TEXT,
        retired INTEGER NOT NULL,
        reason TEXT,
        made_at TEXT NOT NULL,
        UNIQUE (label, revision)
    )
    """,
    """
    CREATE TABLE notes (
        id INTEGER PRIMARY KEY,
        note_id TEXT NOT NULL UNIQUE,
        store TEXT NOT NULL,
        feature INTEGER NOT NULL,
        current INTEGER NOT NULL
    )
    """,
    "CREATE INDEX notes_of_feature ON notes (store, feature)",
    """
    CREATE TABLE note_revisions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        note INTEGER NOT NULL REFERENCES notes (id),
        revision INTEGER NOT NULL,
        kind TEXT NOT NULL,
        text TEXT NOT NULL,
        status TEXT,
        evidence TEXT NOT NULL,
        supports TEXT NOT NULL,
        refutes TEXT NOT NULL,
        author TEXT,
        author_kind TEXT NOT NULL,
        made_at TEXT NOT NULL,
        UNIQUE (note, revision)
    )
    """,
    # words of the newest revision; rowid is that of `labels` and `notes`
    "CREATE VIRTUAL TABLE label_words USING fts5 (text, rule, category, notes, "
    "tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3')",
    "CREATE VIRTUAL TABLE note_words USING fts5 (text, tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3')",
    # what was answered: `result` is the whole answer, compressed JSON
    """
    CREATE TABLE answers (
        evidence TEXT PRIMARY KEY,
        store TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        operation TEXT NOT NULL,
        arguments TEXT NOT NULL,
        digest TEXT NOT NULL,
        result BLOB NOT NULL,
        made_at TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    # `priority`: null unless somebody put the feature first; `revision`: the newest of its labels when it was done
    """
    CREATE TABLE queue (
        id INTEGER PRIMARY KEY,
        store TEXT NOT NULL,
        feature INTEGER NOT NULL,
        state TEXT NOT NULL,
        priority REAL,
        worker TEXT,
        reason TEXT,
        revision INTEGER,
        changed_at TEXT NOT NULL,
        UNIQUE (store, feature)
    )
    """,
    """
    CREATE TABLE embeddings (
        model TEXT NOT NULL,
        text_hash TEXT NOT NULL,
        vector BLOB NOT NULL,
        PRIMARY KEY (model, text_hash)
    ) WITHOUT ROWID
    """,
    # versions of a label or note that it had, or took in, in another database (labels.exchange.versions)
    """
    CREATE TABLE taken_versions (
        record TEXT NOT NULL,
        version TEXT NOT NULL,
        PRIMARY KEY (record, version)
    ) WITHOUT ROWID
    """,
)
_JUDGED = (
    "ALTER TABLE heldout_tests ADD COLUMN auroc REAL",
    "ALTER TABLE heldout_tests ADD COLUMN n_failed INTEGER",
    "ALTER TABLE heldout_tests ADD COLUMN cost REAL",
    "ALTER TABLE heldout_tests ADD COLUMN baseline REAL",
    "ALTER TABLE heldout_tests ADD COLUMN low_without_near_misses REAL",
    "ALTER TABLE heldout_tests ADD COLUMN n_seen INTEGER",
    "ALTER TABLE label_revisions ADD COLUMN explanation TEXT",
    "ALTER TABLE label_revisions ADD COLUMN cost REAL",
    # the words of labels again, with their explanations
    "DROP TABLE label_words",
    "CREATE VIRTUAL TABLE label_words USING fts5 (text, rule, category, notes, explanation, "
    "tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3')",
    "INSERT INTO label_words (rowid, text, rule, category, notes, explanation) "
    "SELECT l.id, r.text, r.rule, r.category, r.notes, r.explanation FROM labels l "
    "JOIN label_revisions r ON r.id = l.current WHERE NOT r.retired",
    # which samples were shown with a feature's activation is asked before each test of its labels
    "CREATE INDEX answers_about ON answers (store, operation, json_extract(arguments, '$.feature'))",
    """
    CREATE TABLE trial_sets (
        trial_set TEXT PRIMARY KEY,
        store TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        feature INTEGER NOT NULL,
        method TEXT NOT NULL,
        claim TEXT NOT NULL,
        label_id TEXT,
        n INTEGER NOT NULL,
        seed INTEGER NOT NULL,
        shown TEXT NOT NULL,
        graded TEXT,
        made_at TEXT NOT NULL
    ) WITHOUT ROWID
    """,
)
MIGRATIONS: tuple[tuple[str, ...], ...] = (_HELDOUT_TESTS, _LABELS_AND_NOTES, _JUDGED)
"""Statements that lead from schema number i to i + 1; only ever appended to."""
