BEGIN TRANSACTION;
CREATE TABLE task_events (
    task_id TEXT NOT NULL REFERENCES tasks (id),
    sequence INTEGER NOT NULL CHECK (sequence >= 1),
    at_ns INTEGER NOT NULL,
    name TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (task_id, sequence)
) WITHOUT ROWID;
INSERT INTO "task_events" VALUES('task-bc9111581cd066eacba6d3c5c1bc707b',1,1700000000000000000,'created','{}');
INSERT INTO "task_events" VALUES('task-bc9111581cd066eacba6d3c5c1bc707b',2,1700000000000000000,'started','{}');
INSERT INTO "task_events" VALUES('task-bc9111581cd066eacba6d3c5c1bc707b',3,1700000000000000000,'failed','{}');
INSERT INTO "task_events" VALUES('task-e7364039b9b00eff55feb176164797e4',1,1700000000000000000,'created','{}');
INSERT INTO "task_events" VALUES('task-e7364039b9b00eff55feb176164797e4',2,1700000000000000000,'started','{}');
INSERT INTO "task_events" VALUES('task-e7364039b9b00eff55feb176164797e4',3,1700000000000000000,'completed','{}');
INSERT INTO "task_events" VALUES('task-fcbe24059b8ec53c6585a6ac46836f62',1,1700000000000000000,'created','{}');
INSERT INTO "task_events" VALUES('task-fcbe24059b8ec53c6585a6ac46836f62',2,1700000000000000000,'started','{}');
INSERT INTO "task_events" VALUES('task-fcbe24059b8ec53c6585a6ac46836f62',3,1700000000000000000,'interrupted','{}');
CREATE TABLE task_keys (
    kind TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    task_id TEXT NOT NULL REFERENCES tasks (id),
    PRIMARY KEY (kind, idempotency_key)
) WITHOUT ROWID;
INSERT INTO "task_keys" VALUES('files.copy','k1','task-e7364039b9b00eff55feb176164797e4');
CREATE TABLE tasks (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN
        ('pending', 'running', 'interrupted', 'completed', 'failed', 'cancelled')),
    stage TEXT NOT NULL,
    attempt INTEGER NOT NULL CHECK (attempt >= 1),
    progress TEXT NOT NULL,
    created_ns INTEGER NOT NULL,
    started_ns INTEGER,
    updated_ns INTEGER NOT NULL,
    ended_ns INTEGER,
    result TEXT,
    error TEXT,
    cancel_requested INTEGER NOT NULL CHECK (cancel_requested IN (0, 1)),
    rate_requested INTEGER CHECK (rate_requested >= 0)
);
INSERT INTO "tasks" VALUES(1,'task-e7364039b9b00eff55feb176164797e4','files.copy','/done','{"a":1}','completed','',1,'{"bytes_done":0,"bytes_total":null,"entries_done":0,"entries_total":null,"eta_s":null,"rate_bytes_per_s":null}',1700000000000000000,1700000000000000000,1700000000000000000,1700000000000000000,'{"files":3}',NULL,0,NULL);
INSERT INTO "tasks" VALUES(2,'task-bc9111581cd066eacba6d3c5c1bc707b','files.verify','/failed','{}','failed','',1,'{"bytes_done":0,"bytes_total":null,"entries_done":0,"entries_total":null,"eta_s":null,"rate_bytes_per_s":null}',1700000000000000000,1700000000000000000,1700000000000000000,1700000000000000000,NULL,'{"kind": "capacity", "code": "disk-full", "message": "full", "advice": "", "context": {}}',0,NULL);
INSERT INTO "tasks" VALUES(3,'task-fcbe24059b8ec53c6585a6ac46836f62','files.copy','/interrupted','{"source":"/\u00e4"}','interrupted','',1,'{"bytes_done":0,"bytes_total":null,"entries_done":0,"entries_total":null,"eta_s":null,"rate_bytes_per_s":null}',1700000000000000000,1700000000000000000,1700000000000000000,NULL,NULL,NULL,0,NULL);
CREATE UNIQUE INDEX one_unfinished_task_per_subject ON tasks (subject)
    WHERE state IN ('pending', 'running', 'interrupted');
CREATE INDEX tasks_by_subject ON tasks (subject, number);
CREATE TRIGGER ended_tasks_never_change BEFORE UPDATE ON tasks
    WHEN OLD.state IN ('completed', 'failed', 'cancelled')
    BEGIN SELECT RAISE(ABORT, 'an ended task never changes'); END;
CREATE TRIGGER tasks_are_never_deleted BEFORE DELETE ON tasks
    BEGIN SELECT RAISE(ABORT, 'a task is never deleted'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('tasks',3);
COMMIT;
PRAGMA user_version = 1;
