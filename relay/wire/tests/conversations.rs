//! Conversations recorded between real servers and real replicas, read packet by packet: what is parsed encodes to the same bytes,
//! and both sides' logins come out as they did.

use std::io::Read;
use std::path::PathBuf;

use baton_wire::auth::{CACHING_SHA2_PASSWORD, ClientAuth, ServerAuth, ServerAuthStep, StoredPassword, caching_sha2};
use baton_wire::capabilities::{self, CLIENT_COMPRESS, CLIENT_QUERY_ATTRIBUTES, has};
use baton_wire::command::{BinlogDump, Command};
use baton_wire::handshake::{ClientFirst, Greeting, HandshakeResponse, ServerFirst};
use baton_wire::packet::{MAX_PAYLOAD, Packet, PacketDecoder, write_packet, write_packet_parts};
use baton_wire::response::{EofPacket, ErrPacket, OkPacket};
use baton_wire::resultset::{ColumnDef, ReadStep, ResultReader, TextResult, TextRows};
use baton_wire::semisync::{Ack, StreamItem, event_prefix};
use bytes::BytesMut;

const PASSWORD: &[u8] = b"replpw";

/// One recorded connection, cut into payloads.
struct Conversation {
    name: String,
    client: Vec<Packet>,
    server: Vec<Packet>,
    /// The server's bytes as they were on the wire.
    server_bytes: Vec<u8>,
}

/// What was agreed on in the first packets, and where the packets behind the login begin.
struct Login {
    greeting: Greeting,
    response: HandshakeResponse,
    capabilities: u32,
    extended: u32,
    client_next: usize,
    server_next: usize,
}

fn captures() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "captures"].iter().collect()
}

fn read(name: &str) -> Vec<u8> {
    let path = captures().join(name);
    if let Ok(bytes) = std::fs::read(&path) {
        return bytes;
    }
    let packed = std::fs::read(captures().join(format!("{name}.gz"))).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut bytes).unwrap();
    bytes
}

fn packets(name: &str, bytes: &[u8]) -> Vec<Packet> {
    let mut decoder = PacketDecoder::new(32 << 20);
    let mut buf = BytesMut::from(bytes);
    let mut packets = Vec::new();
    while let Some(packet) = decoder.decode(&mut buf).unwrap_or_else(|e| panic!("{name}: {e}")) {
        packets.push(packet);
    }
    packets
}

impl Conversation {
    fn read(name: &str) -> Self {
        let server_bytes = read(&format!("{name}.s2c.bin"));
        let client = packets(name, &read(&format!("{name}.c2s.bin")));
        let server = packets(name, &server_bytes);
        Self { name: name.to_owned(), client, server, server_bytes }
    }

    fn login(&self) -> Login {
        let name = &self.name;
        let ServerFirst::Greeting(greeting) = ServerFirst::parse(&self.server[0].payload).unwrap() else {
            panic!("{name}: no greeting");
        };
        let ClientFirst::Response(response) = ClientFirst::parse(&self.client[0].payload).unwrap() else {
            panic!("{name}: no response");
        };
        let ok = self.server.iter().position(|p| p.payload.first() == Some(&0)).expect(name);
        // Between the login and OK the client only speaks where it is asked: `01 04` and the key.
        let asked = self.server[1..ok].iter().filter(|p| p.payload[..] != [1, 3]).count();
        Login {
            capabilities: greeting.capabilities & response.capabilities,
            extended: greeting.extended & response.extended,
            client_next: 1 + asked,
            server_next: ok + 1,
            greeting,
            response,
        }
    }
}

/// All recorded connections; at least as many as there were when this was written.
fn all() -> Vec<Conversation> {
    let mut names: Vec<String> = std::fs::read_dir(captures())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter_map(|name| name.split_once(".c2s.bin").map(|(stem, _)| stem.to_owned()))
        .collect();
    names.sort();
    assert!(names.len() >= 24, "{names:?}");
    names.iter().map(|name| Conversation::read(name)).collect()
}

/// What a client sent and was answered behind its login.
#[derive(Default)]
struct Story {
    /// Queries with their result sets.
    results: Vec<(String, TextRows)>,
    commands: Vec<Command>,
    acks: Vec<Ack>,
    events: usize,
    wanted: usize,
    largest_event: usize,
    end: Option<StreamItem>,
}

/// Reads the answer that begins at `server[*next]`; gives its payloads and the reader's verdict.
fn answer<'a>(conversation: &'a Conversation, login: &Login, next: &mut usize) -> (&'a [Packet], ReadStep) {
    let mut reader = ResultReader::new(login.capabilities).with_extended(login.extended);
    let first = *next;
    loop {
        let step = reader.on_packet(&conversation.server[*next].payload).unwrap();
        *next += 1;
        if step != ReadStep::More {
            return (&conversation.server[first..*next], step);
        }
    }
}

/// Encodes a result set that was read, from its definitions and rows, and compares it with the recorded packets.
fn assert_encodes_alike(login: &Login, recorded: &[Packet], rows: &TextRows) {
    let columns = &recorded[1..1 + rows.columns.len()];
    let columns = columns.iter().map(|p| ColumnDef::parse(&p.payload, login.extended).unwrap()).collect();
    let last = &recorded[recorded.len() - 1].payload;
    let status = match EofPacket::is(last) && !has(login.capabilities, capabilities::CLIENT_DEPRECATE_EOF) {
        true => EofPacket::parse(last).unwrap().status,
        false => OkPacket::parse(last, login.capabilities).unwrap().status,
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    TextResult { columns, rows: rows.rows.clone() }.encode(&mut ours, &mut 1, login.capabilities, status);
    for packet in recorded {
        write_packet(&mut theirs, &mut packet.seq.clone(), &packet.payload);
    }
    assert_eq!(ours, theirs);
}

/// Walks through a conversation behind its login. Every client packet must encode to the bytes it was read from.
fn walk(conversation: &Conversation, login: &Login) -> Story {
    let name = &conversation.name;
    let mut story = Story::default();
    let mut next = login.server_next;
    let mut semi_sync = false;
    let mut client = conversation.client[login.client_next..].iter();
    for packet in client.by_ref() {
        let command = Command::parse(&packet.payload, login.capabilities).unwrap();
        assert_eq!(packet.seq, 0, "{name}");
        assert_eq!(command.encode(login.capabilities).unwrap(), packet.payload, "{name}: {command:?}");
        story.commands.push(command.clone());
        match command {
            Command::Query(sql) => {
                semi_sync |= sql.contains("@rpl_semi_sync_");
                match answer(conversation, login, &mut next) {
                    (recorded, ReadStep::Rows(rows)) => {
                        if login.extended == 0 {
                            assert_encodes_alike(login, recorded, &rows);
                        }
                        story.results.push((sql, rows));
                    }
                    (recorded, ReadStep::Ok(ok)) => assert_eq!(ok.encode(login.capabilities), recorded[0].payload),
                    (_, other) => panic!("{name}: {sql}: {other:?}"),
                }
            }
            Command::RegisterSlave(_) => {
                assert!(matches!(answer(conversation, login, &mut next).1, ReadStep::Ok(_)), "{name}");
            }
            Command::BinlogDump(_) | Command::BinlogDumpGtid(_) => break,
            Command::Quit => {}
            other => panic!("{name}: {other:?}"),
        }
    }
    for packet in client {
        if packet.payload[..] == [1] {
            continue; // COM_QUIT after an error
        }
        let ack = Ack::parse(&packet.payload).unwrap();
        assert_eq!(ack.encode(), packet.payload, "{name}");
        story.acks.push(ack);
    }
    for packet in &conversation.server[next..] {
        match StreamItem::parse(packet.payload.clone(), semi_sync).unwrap() {
            StreamItem::Event { ack_wanted, event } => {
                let prefix = event_prefix(semi_sync.then_some(ack_wanted));
                assert_eq!([prefix, &event].concat(), packet.payload, "{name}");
                let size = u32::from_le_bytes(event[9..13].try_into().unwrap());
                assert_eq!(size as usize, event.len(), "{name}: an event is whole");
                story.events += 1;
                story.wanted += usize::from(ack_wanted);
                story.largest_event = story.largest_event.max(event.len());
            }
            end => story.end = Some(end),
        }
    }
    story
}

fn is_compressed(login: &Login) -> bool {
    has(login.capabilities, CLIENT_COMPRESS)
}

fn story(name: &str) -> Story {
    let conversation = Conversation::read(name);
    let login = conversation.login();
    walk(&conversation, &login)
}

#[test]
fn every_greeting_and_login_encodes_to_its_bytes() {
    for conversation in all() {
        let login = conversation.login();
        assert_eq!(login.greeting.encode(), conversation.server[0].payload, "{}", conversation.name);
        assert_eq!(login.response.encode().unwrap(), conversation.client[0].payload, "{}", conversation.name);
        assert_eq!(login.response.user, "repl");
    }
}

#[test]
fn greetings_say_what_the_servers_are() {
    let mariadb = Conversation::read("a-mariadb-filepos").login().greeting;
    assert_eq!(mariadb.version, "5.5.5-10.11.19-MariaDB-0+deb12u1-log");
    assert_eq!((mariadb.capabilities, mariadb.extended), (0x81ff_f7fe, 0x1d));
    let mysql = Conversation::read("mysql-b-filepos").login().greeting;
    assert_eq!((mysql.version.as_str(), mysql.capabilities, mysql.extended), ("9.7.4-2", 0xdfff_ffff, 0));
    assert_eq!(mysql.auth_plugin, CACHING_SHA2_PASSWORD);
}

#[test]
fn logins_say_what_the_replicas_are() {
    let mariadb = Conversation::read("a-mariadb-filepos").login().response;
    assert_eq!((mariadb.capabilities, mariadb.max_packet), (0x8038_a205, 1_073_742_715));
    assert!(mariadb.attributes.contains(&("_client_version".into(), "10.11.19".into())));
    let mysql = Conversation::read("mysql-b-filepos").login().response;
    assert_eq!((mysql.capabilities, mysql.charset), (0x99b8_a285, 255));
    assert!(mysql.attributes.contains(&("_client_role".into(), "binary_log_listener".into())));
}

#[test]
fn our_client_gives_the_same_proof_as_the_real_one() {
    for conversation in all() {
        let login = conversation.login();
        let (plugin, auth) = ClientAuth::new("repl", PASSWORD, false, true).first_response(&login.greeting);
        assert_eq!(Some(plugin), login.response.auth_plugin.as_deref(), "{}", conversation.name);
        assert_eq!(auth, login.response.auth, "{}", conversation.name);
    }
}

#[test]
fn our_server_accepts_the_real_proofs_and_no_other_password() {
    for conversation in all() {
        let Login { greeting, response, .. } = conversation.login();
        let judge = |password: &[u8]| {
            let mut auth = ServerAuth::new(&greeting.auth_plugin, greeting.scramble, false);
            auth.on_response(&response, Some(&StoredPassword::new(password)))
        };
        let fast = greeting.auth_plugin == CACHING_SHA2_PASSWORD;
        let send = fast.then(|| vec![caching_sha2::MORE_DATA, caching_sha2::FAST_AUTH_SUCCESS]);
        assert_eq!(judge(PASSWORD), ServerAuthStep::Accept { send }, "{}", conversation.name);
        assert_eq!(judge(b"replpv"), ServerAuthStep::Deny, "{}", conversation.name);
    }
}

#[test]
fn our_client_follows_the_full_exchange_of_a_real_server() {
    use baton_wire::auth::ClientAuthStep::{Done, Send, Wait};
    let conversation = Conversation::read("mysql-a-gtid-empty");
    let login = conversation.login();
    let mut client = ClientAuth::new("repl", PASSWORD, false, true);
    client.first_response(&login.greeting);
    let steps: Vec<_> =
        conversation.server[1..login.server_next].iter().map(|p| client.on_packet(&p.payload).unwrap()).collect();
    assert_eq!(steps[0], Send(vec![2]));
    assert!(matches!(&steps[1], Send(encrypted) if encrypted.len() == conversation.client[2].payload.len()));
    assert_eq!(steps[2..], [Done]);
    let fast = Conversation::read("mysql-e-fast-auth");
    let login = fast.login();
    let mut client = ClientAuth::new("repl", PASSWORD, false, false);
    client.first_response(&login.greeting);
    let steps: Vec<_> =
        fast.server[1..login.server_next].iter().map(|p| client.on_packet(&p.payload).unwrap()).collect();
    assert_eq!(steps, [Wait, Done]);
}

#[test]
fn every_conversation_reads_to_its_end() {
    for conversation in all() {
        let login = conversation.login();
        if is_compressed(&login) {
            assert_eq!(conversation.name, "m-mariadb-compressed");
            continue; // behind the login come compressed frames
        }
        let story = walk(&conversation, &login);
        let is_kill = conversation.name.ends_with("-kill");
        assert_eq!(story.events > 0 || story.end.is_some(), !is_kill, "{}", conversation.name);
    }
}

#[test]
fn a_mariadb_replica_asks_what_the_manual_says() {
    let story = story("c-mariadb-gtid-midlog");
    let queries: Vec<&str> =
        story.commands.iter().filter_map(|c| if let Command::Query(q) = c { Some(&q[..]) } else { None }).collect();
    assert_eq!(
        queries,
        [
            "SELECT UNIX_TIMESTAMP()",
            "SHOW VARIABLES LIKE 'SERVER_ID'",
            "SET @master_heartbeat_period= 30000001024",
            "SET @master_binlog_checksum= @@global.binlog_checksum",
            "SELECT @master_binlog_checksum",
            "SET @mariadb_slave_capability=4",
            "SELECT @@GLOBAL.gtid_domain_id",
            "SET @slave_connect_state='0-1-8'",
            "SET @slave_gtid_strict_mode=0",
            "SET @slave_gtid_ignore_duplicates=0",
        ]
    );
    let values: Vec<_> = story.results.iter().map(|(_, rows)| rows.rows[0].last().unwrap().clone().unwrap()).collect();
    assert_eq!(values[1..], [b"1".to_vec(), b"CRC32".to_vec(), b"0".to_vec()]);
    assert_eq!(story.results[1].1.get(0, "value"), Some("1"));
    let dump = BinlogDump { position: 4, flags: 2, server_id: 2, file: String::new() };
    assert_eq!(story.commands.last(), Some(&Command::BinlogDump(dump)));
    assert!(matches!(&story.commands[10], Command::RegisterSlave(r) if r.server_id == 2 && r.port == 25002));
}

#[test]
fn a_mysql_replica_sends_its_gtid_set_in_the_dump_command() {
    let story = story("mysql-a-gtid-nonempty");
    let Some(Command::BinlogDumpGtid(dump)) = story.commands.last() else { panic!("no dump") };
    assert_eq!((dump.flags, dump.server_id, dump.position, dump.file.as_str()), (2, 102, 4, ""));
    assert_eq!(dump.set.len(), 48);
    let mode = story.results.iter().find(|(sql, _)| sql == "SELECT @@GLOBAL.GTID_MODE").unwrap();
    assert_eq!(mode.1.at(0, 0), Some("ON"));
}

#[test]
fn a_result_with_mariadb_metadata_is_read_too() {
    let conversation = Conversation::read("l-mariadb-binlog-raw");
    let login = conversation.login();
    assert_eq!(login.extended, 0x1d);
    let story = walk(&conversation, &login);
    let version = Some("10.11.19-MariaDB-0+deb12u1-log");
    assert_eq!(story.results[0].1.get(0, "VERSION()"), version);
}

#[test]
fn semi_sync_sessions_ack_what_is_wanted() {
    for name in ["d-mariadb-semisync", "mysql-c-semisync"] {
        let story = story(name);
        assert!(story.wanted > 0, "{name}");
        assert_eq!(story.acks.len(), story.wanted, "{name}");
        assert!(story.acks.iter().all(|ack| ack.position > 4 && ack.file.contains("bin.0000")), "{name}");
    }
}

#[test]
fn streams_end_as_they_did() {
    let purged = story("j-mariadb-purged-gtid").end;
    assert!(
        matches!(&purged, Some(StreamItem::Err(e)) if e.code == 1236 && e.message.contains("GTID state")),
        "{purged:?}"
    );
    let eof = story("l-mariadb-binlog-raw-to-last").end;
    assert_eq!(eof, Some(StreamItem::Eof(EofPacket { warnings: 0, status: 2 })));
    let mysql = Conversation::read("mysql-h-purged");
    let Some(last) = mysql.server.last() else { panic!("empty") };
    assert_eq!(ErrPacket::parse(&last.payload).unwrap().encode(), last.payload);
}

#[test]
fn the_connection_that_stops_a_replica_kills_its_thread() {
    let story = story("d-mariadb-semisync-kill");
    assert_eq!(story.commands, [Command::Query("KILL 10".into()), Command::Quit]);
}

#[test]
fn split_packets_join_and_split_again_alike() {
    for (name, largest) in [("k-mariadb-17mb-event", 17_000_042), ("k-mariadb-exact-16mb", MAX_PAYLOAD - 1)] {
        let conversation = Conversation::read(name);
        let login = conversation.login();
        assert_eq!(walk(&conversation, &login).largest_event, largest, "{name}");
        let mut again = Vec::with_capacity(conversation.server_bytes.len());
        for packet in &conversation.server {
            let pieces = packet.payload.len() / MAX_PAYLOAD;
            let mut seq = packet.seq.wrapping_sub(pieces as u8);
            let (prefix, body) = packet.payload.split_at(1.min(packet.payload.len()));
            write_packet_parts(&mut again, &mut seq, prefix, body);
        }
        assert!(again == conversation.server_bytes, "{name}");
    }
}

#[test]
fn queries_of_mysql_carry_attributes_and_those_of_mariadb_do_not() {
    for (name, expected) in [("mysql-b-filepos", true), ("a-mariadb-filepos", false)] {
        let capabilities = Conversation::read(name).login().capabilities;
        assert_eq!(has(capabilities, CLIENT_QUERY_ATTRIBUTES), expected, "{name}");
    }
}
