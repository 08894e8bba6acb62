-- The events of files of JSON Lines in ECS as one flat table, for DuckDB: duckdb -c ".read duckdb.sql" FILE.db
-- The files are found by the pattern below, compressed ones too. A field that a line has not is NULL.
CREATE OR REPLACE TABLE events AS
SELECT
    line->>'$.host.name' AS host,
    CAST(line->>'$.event.sequence' AS BIGINT) AS sequence,
    epoch_ns(CAST(rtrim(line->>'$."@timestamp"', 'Z') AS TIMESTAMP_NS)) AS time_ns,
    line->>'$.event.action' AS action,
    line->>'$.event.outcome' AS outcome,
    CAST(line->>'$.event.duration' AS BIGINT) AS duration_ns,
    CAST(line->>'$.process.pid' AS BIGINT) AS pid,
    line->>'$.process.entity_id' AS entity,
    line->>'$.process.executable' AS executable,
    line->>'$.process.command_line' AS command_line,
    line->>'$.process.user.id' AS user_id,
    CAST(line->>'$.tracer.process.loginuid' AS BIGINT) AS login_user_id,
    contains(line->>'$.tracer.process.flags', '"memfd"') OR contains(line->>'$.tracer.process.flags', '"deleted"') AS unlinked,
    line->>'$.process.parent.entity_id' AS parent_entity,
    line->>'$.process.parent.executable' AS parent_executable,
    line->>'$.tracer.cgroup.unit' AS unit,
    line->>'$.container.id' AS container,
    line->>'$.network.direction' AS direction,
    line->>'$.network.transport' AS transport,
    line->>'$.source.ip' AS source_ip,
    CAST(line->>'$.source.port' AS BIGINT) AS source_port,
    CAST(line->>'$.source.bytes' AS BIGINT) AS source_bytes,
    line->>'$.destination.ip' AS destination_ip,
    CAST(line->>'$.destination.port' AS BIGINT) AS destination_port,
    CAST(line->>'$.destination.bytes' AS BIGINT) AS destination_bytes,
    line->>'$.destination.domain' AS domain,
    line->>'$.dns.question.name' AS question,
    line->>'$.error.code' AS error,
    CAST(line->>'$.tracer.loss.count' AS BIGINT) AS lost
FROM (SELECT json AS line FROM read_json_objects('events*.jsonl*', format = 'newline_delimited'));
