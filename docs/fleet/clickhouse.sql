-- The events of files of JSON Lines in ECS as one flat table, for ClickHouse, and how they get there.
-- On a server the files are below its user_files directory, or come in by `clickhouse-client --query "INSERT ..."`.
-- A field that a line has not is NULL.
CREATE TABLE IF NOT EXISTS events
(
    host LowCardinality(String),
    sequence Int64,
    time_ns Int64,
    action LowCardinality(String),
    outcome LowCardinality(Nullable(String)),
    duration_ns Nullable(Int64),
    pid Nullable(Int64),
    entity Nullable(String),
    executable LowCardinality(Nullable(String)),
    command_line Nullable(String),
    user_id LowCardinality(Nullable(String)),
    login_user_id Nullable(Int64),
    unlinked Bool,
    parent_entity Nullable(String),
    parent_executable LowCardinality(Nullable(String)),
    unit LowCardinality(Nullable(String)),
    container LowCardinality(Nullable(String)),
    direction LowCardinality(Nullable(String)),
    transport LowCardinality(Nullable(String)),
    source_ip Nullable(String),
    source_port Nullable(Int64),
    source_bytes Nullable(Int64),
    destination_ip Nullable(String),
    destination_port Nullable(Int64),
    destination_bytes Nullable(Int64),
    domain Nullable(String),
    question Nullable(String),
    error LowCardinality(Nullable(String)),
    lost Nullable(Int64)
)
ENGINE = MergeTree
PARTITION BY intDiv(time_ns, 86400000000000)
ORDER BY (action, host, time_ns);

INSERT INTO events
SELECT
    JSONExtractString(line, 'host', 'name'),
    JSONExtractInt(line, 'event', 'sequence'),
    toUnixTimestamp64Nano(parseDateTime64BestEffort(JSONExtractString(line, '@timestamp'), 9, 'UTC')),
    JSONExtractString(line, 'event', 'action'),
    JSONExtract(line, 'event', 'outcome', 'Nullable(String)'),
    JSONExtract(line, 'event', 'duration', 'Nullable(Int64)'),
    JSONExtract(line, 'process', 'pid', 'Nullable(Int64)'),
    JSONExtract(line, 'process', 'entity_id', 'Nullable(String)'),
    JSONExtract(line, 'process', 'executable', 'Nullable(String)'),
    JSONExtract(line, 'process', 'command_line', 'Nullable(String)'),
    JSONExtract(line, 'process', 'user', 'id', 'Nullable(String)'),
    JSONExtract(line, 'tracer', 'process', 'loginuid', 'Nullable(Int64)'),
    hasAny(JSONExtract(line, 'tracer', 'process', 'flags', 'Array(String)'), ['memfd', 'deleted']),
    JSONExtract(line, 'process', 'parent', 'entity_id', 'Nullable(String)'),
    JSONExtract(line, 'process', 'parent', 'executable', 'Nullable(String)'),
    JSONExtract(line, 'tracer', 'cgroup', 'unit', 'Nullable(String)'),
    JSONExtract(line, 'container', 'id', 'Nullable(String)'),
    JSONExtract(line, 'network', 'direction', 'Nullable(String)'),
    JSONExtract(line, 'network', 'transport', 'Nullable(String)'),
    JSONExtract(line, 'source', 'ip', 'Nullable(String)'),
    JSONExtract(line, 'source', 'port', 'Nullable(Int64)'),
    JSONExtract(line, 'source', 'bytes', 'Nullable(Int64)'),
    JSONExtract(line, 'destination', 'ip', 'Nullable(String)'),
    JSONExtract(line, 'destination', 'port', 'Nullable(Int64)'),
    JSONExtract(line, 'destination', 'bytes', 'Nullable(Int64)'),
    JSONExtract(line, 'destination', 'domain', 'Nullable(String)'),
    JSONExtract(line, 'dns', 'question', 'name', 'Nullable(String)'),
    JSONExtract(line, 'error', 'code', 'Nullable(String)'),
    JSONExtract(line, 'tracer', 'loss', 'count', 'Nullable(Int64)')
FROM file('events*.jsonl*', 'LineAsString');
