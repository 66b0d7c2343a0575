"""Prints what python-mysql-replication reads of a MariaDB log, one line an event.

Arguments: port, user, password, a GTID position or FILE:POSITION, and a piece of the statement after which it ends.
"""

import json
import sys

from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.event import MariadbGtidEvent, QueryEvent, XidEvent
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

port, user, password, start, last = sys.argv[1:6]
settings = {"host": "127.0.0.1", "port": int(port), "user": user, "passwd": password}
begin = {"resume_stream": True}
if ":" in start:
    begin["log_file"], position = start.rsplit(":", 1)
    begin["log_pos"] = int(position)
else:
    begin.update(is_mariadb=True, auto_position=start)
stream = BinLogStreamReader(
    connection_settings=settings,
    server_id=77,
    blocking=True,
    only_events=[DeleteRowsEvent, MariadbGtidEvent, QueryEvent, UpdateRowsEvent, WriteRowsEvent, XidEvent],
    **begin,
)
for event in stream:
    line = {"event": type(event).__name__, "file": stream.log_file, "position": stream.log_pos, "time": event.timestamp}
    if isinstance(event, QueryEvent):
        line["query"] = event.query
    elif isinstance(event, MariadbGtidEvent):
        line["gtid"] = event.gtid
    elif isinstance(event, XidEvent):
        line["xid"] = event.xid
    else:
        line.update(table=event.table, rows=event.rows)
    print(json.dumps(line, default=str, sort_keys=True))
    if last in line.get("query", ""):
        break
stream.close()
