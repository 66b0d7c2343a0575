//! The conversation with a primary before its stream: who it is, what it has, and the request.
//!
//! Promises: few round trips, since commits wait for this where a server has just been promoted; nothing is asked for that could be taken for an
//! acknowledgement before it is decided where the stream begins.

use std::time::Duration;

use baton_wire::checksum::ChecksumAlg;
use baton_wire::command::{self, BinlogDump, DUMP_SEND_ANNOTATE_ROWS, RegisterSlave};
use baton_wire::event::{self, EventKind, FIRST_EVENT, Flavor, HEADER_LEN, Rotate};
use baton_wire::frame::{Deframed, DeframerOptions, EventDeframer};
use baton_wire::gtid::mariadb::GtidList;
use baton_wire::response::code;
use bytes::Buf;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use super::client::{Client, Rows, last_value};
use super::context::Context;
use super::error::StreamError;
use super::plan::{Aim, LogEnd, ServerFacts};
use super::status::SETTINGS;
use super::stream::stream_error;
use crate::fanout::{MIRROR_VARIABLE, RELAY_VARIABLE};

/// For an answer that makes the primary read up to a whole binlog file.
const READ_FILE_LIMIT: Duration = Duration::from_secs(60);

/// What the primary says.
pub(super) struct Asked {
    pub(super) server: ServerFacts,
    pub(super) checksum: ChecksumAlg,
    /// Switched on or not: it may be later. False also where nobody wants to know.
    pub(super) knows_semi_sync: bool,
}

/// The conversation of a replica before it asks for the stream; `acks`: whether it is to acknowledge.
pub(super) async fn ask(
    context: &Context,
    client: &mut Client,
    aim: &Aim,
    end: Option<&LogEnd>,
    acks: bool,
) -> Result<Asked, StreamError> {
    let version = client.greeting.version.clone();
    if Flavor::of_version(&version) != Flavor::MariaDb {
        return Err(StreamError::Refused {
            cause: format!("the primary is MySQL {version}: not supported yet"),
            hint: "only MariaDB servers can be followed: correct the address".into(),
        });
    }
    let begins = match aim {
        Aim::Epoch(origin) if end.is_none_or(|e| e.epoch != origin.epoch) => origin.first_file.as_deref(),
        _ => None,
    };
    let place = match (begins, end) {
        (Some(first), _) => Some((first, FIRST_EVENT)),
        (None, Some(end)) => Some((end.upstream_file.as_str(), end.pos.offset)),
        (None, None) => None,
    };
    let settings: Vec<String> = SETTINGS.iter().map(|name| format!("@@GLOBAL.{name}")).collect();
    let mirror = if matches!(aim, Aim::Mirror { .. }) { format!(", @{MIRROR_VARIABLE}=1") } else { String::new() };
    let period = context.heartbeat.as_nanos();
    let mut statements = vec![
        "SELECT @@GLOBAL.server_id, @@GLOBAL.gtid_binlog_pos".to_owned(),
        format!("SELECT {}", settings.join(", ")),
        format!(
            "SET @master_heartbeat_period= {period}, @master_binlog_checksum= @@global.binlog_checksum, \
             @mariadb_slave_capability=4, @{RELAY_VARIABLE}=1{mirror}"
        ),
        "SELECT @master_binlog_checksum".to_owned(),
    ];
    statements.extend(acks.then(|| "SHOW VARIABLES LIKE 'rpl_semi_sync_master_enabled'".to_owned()));
    statements.extend(place.map(|(file, offset)| gtid_at_statement(file, offset)));
    let commands: Vec<_> = statements.iter().map(|sql| (sql.as_str(), command::query(sql))).collect();
    // In one go: commits wait for this where a server has just been promoted.
    let longest = if place.is_some() { READ_FILE_LIMIT } else { Duration::ZERO };
    let mut answers = client.commands(&commands, longest, None).await?.into_iter();
    let mut next = || answers.next().unwrap_or_else(|| Ok(Rows::new()));
    let known = next()?.into_iter().next().and_then(|row| row.try_into().ok());
    let [server_id, gtid_binlog_pos]: [Option<String>; 2] = known.unwrap_or_default();
    let (server_id, gtid_binlog_pos) = (number(server_id, "server_id")?, position(gtid_binlog_pos)?);
    let mut server = ServerFacts { server_id, gtid_binlog_pos, ..ServerFacts::default() };
    let (settings, _set, checksum) = (next(), next()?, last_value(next()?));
    let knows_semi_sync = acks && !next()?.is_empty();
    let found = match place {
        Some(_) => last_value(next()?).map(|text| position(Some(text))).transpose()?,
        None => None,
    };
    match (begins, end) {
        (Some(_), _) => server.gtid_at_first = found,
        (None, Some(end)) => {
            server.has_file = found.is_some() || gtid_at(client, &end.upstream_file, FIRST_EVENT).await?.is_some();
            server.gtid_at_head = found;
        }
        (None, None) => {}
    }
    note_settings(context, client, settings).await?;
    let checksum = match checksum.as_deref() {
        Some("NONE") => ChecksumAlg::None,
        _ => ChecksumAlg::Crc32,
    };
    Ok(Asked { server, checksum, knows_semi_sync })
}

/// What the server's settings are, for the status and its warnings; `all` is the answer to all of them at once.
async fn note_settings(
    context: &Context,
    client: &mut Client,
    all: Result<Rows, StreamError>,
) -> Result<(), StreamError> {
    if let Ok(rows) = all {
        for (name, value) in SETTINGS.into_iter().zip(rows.into_iter().flatten()) {
            context.note_setting(name, value);
        }
        return Ok(());
    }
    for name in SETTINGS {
        // Older servers lack some: then readers get what such a server does.
        match client.value(&format!("SELECT @@GLOBAL.{name}")).await {
            Ok(value) => context.note_setting(name, value),
            Err(StreamError::Server { .. }) => context.note_setting(name, None),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The server's GTID position at a place; `None` if it has no such place. It reads the file up to there: from a cold disk that takes longer
/// than other answers.
async fn gtid_at(client: &mut Client, file: &str, offset: u64) -> Result<Option<GtidList>, StreamError> {
    let sql = gtid_at_statement(file, offset);
    client.value_within(&sql, READ_FILE_LIMIT).await?.map(|text| position(Some(text))).transpose()
}

fn gtid_at_statement(file: &str, offset: u64) -> String {
    format!("SELECT BINLOG_GTID_POS('{}',{offset})", file.replace(['\'', '\\'], ""))
}

fn number(value: Option<String>, what: &'static str) -> Result<u32, StreamError> {
    value.as_deref().and_then(|v| v.parse().ok()).ok_or_else(|| StreamError::Garbled {
        file: "(login)".into(),
        offset: 0,
        detail: format!("{what} is {value:?}, a number was expected"),
    })
}

fn position(value: Option<String>) -> Result<GtidList, StreamError> {
    Ok(value.unwrap_or_default().parse::<GtidList>()?)
}

/// Asks for the stream. Only a connection that `acks` says that it acknowledges: to the server a start position counts as an acknowledgement too.
pub(super) async fn dump(
    context: &Context,
    client: &mut Client,
    file: &str,
    position: u64,
    acks: bool,
) -> Result<(), StreamError> {
    let Ok(position) = u32::try_from(position) else {
        return Err(StreamError::Refused {
            cause: format!("{file}:{position} lies beyond 4 GiB, which the dump command can't name"),
            hint: "lower max_binlog_size on the primary (1 GiB at most is usual); FLUSH BINARY LOGS begins a new file"
                .into(),
        });
    };
    let register = RegisterSlave {
        server_id: context.server_id,
        host: context.name.clone(),
        user: String::new(),
        password: String::new(),
        port: context.port,
        rank: 0,
        master_id: 0,
    };
    let mut commands = vec![("COM_REGISTER_SLAVE", register.encode()?)];
    let semi_sync = "SET @rpl_semi_sync_slave= 1";
    commands.extend(acks.then(|| (semi_sync, command::query(semi_sync))));
    let request =
        BinlogDump { position, flags: DUMP_SEND_ANNOTATE_ROWS, server_id: context.server_id, file: file.to_owned() };
    // Sent along: whatever is refused before ends the connection.
    for answer in client.commands(&commands, Duration::ZERO, Some(&request.encode())).await? {
        answer.map_err(|e| match e {
            StreamError::Server { code: code::ACCESS_DENIED | code::SPECIFIC_ACCESS_DENIED, message, .. } => {
                StreamError::Refused {
                    cause: format!("the primary refuses to be replicated: {message}"),
                    hint: format!("on the primary: GRANT REPLICATION SLAVE ON *.* TO '{}'@'%'", context.login.user),
                }
            }
            other => other,
        })?;
    }
    Ok(())
}

/// Asks for a GTID position, only to be told the name of the file that holds it.
pub(super) async fn learn_file(context: &Context, mut client: Client, gtid: &GtidList) -> Result<String, StreamError> {
    client.query(&format!("SET @slave_connect_state='{gtid}'")).await?;
    client.query("SET @slave_gtid_strict_mode=0").await?;
    client.query("SET @slave_gtid_ignore_duplicates=0").await?;
    dump(context, &mut client, "", 4, false).await?;
    let address = client.address.clone();
    let (mut stream, mut buf) = client.into_stream();
    let mut deframer = EventDeframer::new(DeframerOptions::default());
    loop {
        let (used, found) = deframer.next(&buf)?;
        match found {
            Deframed::EventData { header, data, first: true, last: true, .. } if header.kind == EventKind::ROTATE => {
                // Whether this first event is summed depends on the session; the name's length does not.
                let body = data.get(HEADER_LEN..).unwrap_or_default();
                let summed = baton_wire::checksum::verify(data).is_ok();
                let body = if summed { event::body(data, ChecksumAlg::Crc32)? } else { body };
                return Ok(Rotate::parse(body)?.file);
            }
            Deframed::Error(payload) => return Err(stream_error(payload, &format!("GTID position '{gtid}'"))),
            Deframed::Eof => return Err(StreamError::Io { address, source: std::io::ErrorKind::UnexpectedEof.into() }),
            Deframed::EventData { .. } => buf.advance(used),
            Deframed::NeedMore(_) => {
                let read = timeout(context.silence, stream.read_buf(&mut buf)).await;
                match read {
                    Ok(Ok(0)) => {
                        return Err(StreamError::Io { address, source: std::io::ErrorKind::UnexpectedEof.into() });
                    }
                    Ok(Ok(_)) => {}
                    Ok(Err(source)) => return Err(StreamError::Io { address, source }),
                    Err(_) => {
                        return Err(StreamError::Timeout {
                            address,
                            what: "no event",
                            millis: context.silence.as_millis(),
                        });
                    }
                }
            }
        }
    }
}
