-- Ten questions that people ask, in the SQL that DuckDB and ClickHouse share; the table is that of duckdb.sql and
-- clickhouse.sql. What is to be replaced is a literal in the first lines of a question.

-- 1. Who talked to this address, when first and last, and how much?
SELECT host, executable, user_id, destination_port,
       count(DISTINCT entity) AS processes, min(time_ns) AS first_ns, max(time_ns) AS last_ns,
       sum(source_bytes) AS sent, sum(destination_bytes) AS received
FROM events
WHERE destination_ip = '203.0.113.7' AND action IN ('connection-opened', 'connection-failed', 'connection-closed')
  AND direction = 'egress'
GROUP BY host, executable, user_id, destination_port
ORDER BY host, executable, user_id, destination_port;

-- 2. Which programs ran after this moment (ns since 1970) that had never run before on any machine?
SELECT executable, min(time_ns) AS first_ns, count(*) AS times, count(DISTINCT host) AS hosts
FROM events
WHERE action IN ('process-executed', 'process-running')
GROUP BY executable
HAVING min(time_ns) >= 1700172800000000000
ORDER BY executable;

-- 3. What calls home by the clock: many connections to one peer, at intervals that hardly vary?
SELECT host, executable, destination_ip, destination_port,
       count(*) AS gaps, round(avg(gap_s)) AS seconds, round(stddev_pop(gap_s) / avg(gap_s), 2) AS varies
FROM (
    SELECT host, executable, destination_ip, destination_port,
           (time_ns - any_value(time_ns) OVER (PARTITION BY host, executable, destination_ip, destination_port
                                               ORDER BY time_ns ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING)) / 1e9 AS gap_s,
           row_number() OVER (PARTITION BY host, executable, destination_ip, destination_port ORDER BY time_ns) AS number
    FROM events
    WHERE action = 'connection-opened' AND direction = 'egress'
) AS gaps
WHERE number > 1
GROUP BY host, executable, destination_ip, destination_port
HAVING count(*) >= 20 AND stddev_pop(gap_s) < 0.1 * avg(gap_s)
ORDER BY host, executable, destination_ip, destination_port;

-- 4. Who moved most, to whom?
SELECT host, executable, destination_ip, sum(source_bytes + destination_bytes) AS bytes
FROM events
WHERE action = 'connection-closed' AND direction = 'egress'
GROUP BY host, executable, destination_ip
ORDER BY bytes DESC, host, executable, destination_ip
LIMIT 5;

-- 5. What did a web server run, and what did that run in turn?
SELECT child.host AS host, child.executable AS child, grandchild.executable AS grandchild, count(*) AS times
FROM events AS child
LEFT JOIN events AS grandchild
  ON grandchild.host = child.host AND grandchild.parent_entity = child.entity AND grandchild.action = 'process-executed'
WHERE child.action = 'process-executed' AND child.parent_executable = '/usr/sbin/nginx'
GROUP BY child.host, child.executable, grandchild.executable
ORDER BY host, child, grandchild;

-- 6. What ran from where nothing should: temporary directories, memory, files without a name?
SELECT host, executable, user_id, count(*) AS times
FROM events
WHERE action = 'process-executed'
  AND (unlinked OR executable LIKE '/tmp/%' OR executable LIKE '/var/tmp/%' OR executable LIKE '/dev/shm/%')
GROUP BY host, executable, user_id
ORDER BY host, executable, user_id;

-- 7. Who knocks at many doors: refused or unanswered at more than 20 ports or addresses?
SELECT host, entity, executable, count(DISTINCT destination_ip) AS addresses, count(DISTINCT destination_port) AS ports
FROM events
WHERE action = 'connection-failed'
GROUP BY host, entity, executable
HAVING count(DISTINCT destination_ip) > 20 OR count(DISTINCT destination_port) > 20
ORDER BY host, entity, executable;

-- 8. Who asked for this name, and what did they connect to under it?
SELECT asked.host AS host, asked.executable AS executable, count(DISTINCT asked.entity) AS processes,
       count(DISTINCT opened.destination_ip) AS addresses
FROM events AS asked
LEFT JOIN events AS opened
  ON opened.host = asked.host AND opened.entity = asked.entity AND opened.domain = asked.question
     AND opened.action = 'connection-opened'
WHERE asked.action = 'dns-answered' AND asked.question = 'update.example.org'
GROUP BY asked.host, asked.executable
ORDER BY host, executable;

-- 9. Who became root after a login as somebody else?
SELECT host, login_user_id, executable, command_line, min(time_ns) AS first_ns, count(*) AS times
FROM events
WHERE action = 'process-executed' AND user_id = '0' AND login_user_id > 0
GROUP BY host, login_user_id, executable, command_line
ORDER BY host, login_user_id, executable, command_line;

-- 10. Is anything missing, where and when?
SELECT host, count(*) AS losses, sum(lost) AS events, min(time_ns) AS first_ns, max(time_ns) AS last_ns
FROM events
WHERE action = 'tracer-loss'
GROUP BY host
ORDER BY host;
