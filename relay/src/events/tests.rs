//! The command over recorded files, whole and damaged.

use std::path::PathBuf;

use baton_wire::event::{EventKind, Rotate};
use baton_wire::frame::EventFramer;
use baton_wire::handshake::Greeting;
use baton_wire::packet::{self, write_packet};
use baton_wire::response::ErrPacket;
use baton_wire::{ChecksumAlg, checksum};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn capture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("wire/tests/captures").join(name)
}

fn args(json: bool) -> EventsArgs {
    EventsArgs {
        json,
        relay: None,
        user: None,
        password_file: None,
        get_server_public_key: false,
        start: None,
        follow: false,
        files: Vec::new(),
    }
}

/// Output and errors told for files.
fn print(json: bool, files: Vec<PathBuf>) -> (String, Vec<String>) {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let args = EventsArgs { files, ..args(json) };
    let told = print_files(&args, &mut out, &mut errors).unwrap();
    let errors: Vec<String> = String::from_utf8(errors).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(told, errors.len() as u64);
    (String::from_utf8(out).unwrap(), errors)
}

/// The same for bytes.
fn print_bytes(json: bool, bytes: &[u8]) -> (String, Vec<String>) {
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    let mut printer = Printer::new(&mut out, json);
    printer.begin("f").unwrap();
    print_one(&mut printer, "f", bytes, &mut |text| errors.push(text)).unwrap();
    (String::from_utf8(out).unwrap(), errors)
}

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn of(name: &str) -> Vec<Value> {
    let (out, errors) = print(true, vec![capture(name)]);
    assert_eq!(errors, Vec::<String>::new());
    lines(&out)
}

fn at(events: &[Value], position: u64) -> &Value {
    events.iter().find(|e| e["position"] == position).unwrap()
}

#[test]
fn every_event_is_printed_once_and_in_order() {
    for name in ["mariadb-row-crc32.binlog", "mariadb-row-nocrc.binlog", "mysql-gtid-crc32.binlog"] {
        let events = of(name);
        let mut position = 4;
        for event in &events {
            assert_eq!((&event["file"], &event["position"]), (&json!(name), &json!(position)));
            assert_eq!(event["checksum"], if name.contains("nocrc") { "none" } else { "ok" });
            assert_eq!(event.get("error"), None);
            position = event["end"].as_u64().unwrap();
        }
        assert_eq!(position, std::fs::metadata(capture(name)).unwrap().len());
        assert_eq!(
            (&events[0]["type"], &events.last().unwrap()["type"]),
            (&json!("FORMAT_DESCRIPTION"), &json!("ROTATE"))
        );
    }
}

#[test]
fn rows_of_mariadb_have_their_values() {
    let events = of("mariadb-row-crc32.binlog");
    let insert = at(&events, 1039);
    assert_eq!(
        (&insert["type"], &insert["gtid"], &insert["table"]),
        (&json!("WRITE_ROWS_V1"), &json!("0-1-3"), &json!("acct"))
    );
    let alice = json!({"@1": 1, "@2": "alice", "@3": "10.50", "@4": "n1", "@5": "2024-01-02T03:04:05Z",
        "@6": {"hex": "00ff10"}, "@7": 1, "@8": "{\"k\":1}"});
    let bob = json!({"@1": 2, "@2": "bob", "@3": "-3.25", "@4": null, "@5": null, "@6": null, "@7": 3, "@8": null});
    assert_eq!(insert["rows"], json!([{"after": alice}, {"after": bob}]));
    let update = at(&events, 1351);
    assert_eq!(update["rows"][0]["before"], alice);
    assert_eq!(
        (&update["rows"][0]["after"]["@3"], &update["rows"][1]["after"]["@3"]),
        (&json!("11.50"), &json!("-2.25"))
    );
    let compressed = at(&events, 38867);
    assert_eq!(compressed["type"], "WRITE_ROWS_COMPRESSED_V1");
    assert_eq!(compressed["rows"][0]["after"]["@4"].as_str().unwrap().len(), 600);
    let all: Vec<_> = events.iter().filter(|e| e["type"].as_str().unwrap().contains("_ROWS_")).collect();
    assert!(all.iter().all(|e| e["rows"].is_array() && e.get("rows_hex").is_none()));
}

#[test]
fn rows_and_tagged_gtids_of_mysql_are_read_too() {
    let events = of("mysql-gtid-crc32.binlog");
    let bob = json!({"@1": 2, "@2": "bob", "@3": "-3.25", "@4": null, "@5": null, "@6": null, "@7": 3, "@8": null});
    assert_eq!(at(&events, 923)["rows"][1]["after"], bob);
    assert_eq!(at(&events, 37838)["gtid"], "2f214d05-e54a-11f1-8c8b-02fc00000001:tag1:1");
    assert_eq!(at(&events, 38217)["reason"], "the events inside are not unpacked");
}

#[test]
fn the_text_has_one_line_an_event_and_one_a_row() {
    let (out, errors) = print(false, vec![capture("mariadb-row-crc32.binlog"), capture("mysql-gtid-crc32.binlog")]);
    assert_eq!(errors, Vec::<String>::new());
    let line = |start: &str| out.lines().find(|l| l.trim_start().starts_with(start)).unwrap();
    assert_eq!(out.lines().next(), Some("# mariadb-row-crc32.binlog"));
    let ddl = line("365 ");
    assert!(ddl.contains("QUERY") && ddl.ends_with("CREATE DATABASE IF NOT EXISTS app"), "{ddl}");
    assert!(line("1351 ").contains("`app`.`acct`"));
    assert!(out.contains(r#"+ {"@1":2,"@2":"bob","@3":"-3.25","@4":null"#));
    assert!(out.contains(r#"- {"@1":"#) && out.contains(" -> {\"@1\":1"));
}

#[test]
fn a_file_cut_short_is_told_with_the_offset_and_the_rest_is_printed() {
    let whole = std::fs::read(capture("mariadb-row-crc32.binlog")).unwrap();
    // (cut at, events before the cut, error)
    for (cut, events, expected) in [
        (0, 0, "at offset 0: not a binlog file: it begins with nothing"),
        (3, 0, "at offset 0: not a binlog file: it begins with fe6269"),
        (10, 0, "at offset 4: the file ends within an event: 6 of its 19 bytes are there"),
        (255, 0, "at offset 4: the file ends within an event: 251 of its 252 bytes are there"),
        (290, 2, "at offset 285: the file ends within an event: 5 of its 19 bytes are there"),
        (310, 2, "at offset 285: the file ends within an event: 25 of its 38 bytes are there"),
    ] {
        let (out, errors) = print_bytes(true, &whole[..cut]);
        assert_eq!(lines(&out).len(), events, "cut at {cut}");
        assert!(errors.len() == 1 && errors[0].starts_with(expected), "cut at {cut}: {errors:?}");
    }
    // Between two events nothing is missing that could be noticed.
    assert_eq!(print_bytes(true, &whole[..285]).1, Vec::<String>::new());
    assert_eq!(print_bytes(true, &whole[..4]).1, Vec::<String>::new());
}

#[test]
fn a_damaged_event_is_marked_and_those_around_it_are_printed() {
    let mut bytes = std::fs::read(capture("mariadb-row-crc32.binlog")).unwrap();
    bytes[1039 + 60] ^= 1;
    let (out, errors) = print_bytes(true, &bytes);
    let expected = "at offset 1039: WRITE_ROWS_V1 event: its checksum does not match: the event is damaged";
    assert_eq!(errors, [expected]);
    let events = lines(&out);
    assert_eq!(events.len(), of("mariadb-row-crc32.binlog").len());
    let bad: Vec<_> = events.iter().filter(|e| e["checksum"] == "bad").map(|e| &e["position"]).collect();
    assert_eq!(bad, [1039]);
    assert!(print_bytes(false, &bytes).0.contains("[its checksum does not match"));
}

#[test]
fn a_damaged_size_ends_the_file_with_an_error() {
    let mut bytes = std::fs::read(capture("mariadb-row-crc32.binlog")).unwrap();
    bytes[323 + 9..323 + 13].copy_from_slice(&u32::MAX.to_le_bytes());
    let (out, errors) = print_bytes(true, &bytes);
    assert_eq!(lines(&out).len(), 3);
    assert_eq!(errors.len(), 1);
    assert!(errors[0].starts_with("at offset 323: the file ends within an event: 38680 of its 4294967295 bytes"));
    bytes[323 + 9..323 + 13].copy_from_slice(&7_u32.to_le_bytes());
    let (_, errors) = print_bytes(true, &bytes);
    assert!(errors[0].starts_with("at offset 323: event header: size 7"), "{errors:?}");
}

#[test]
fn what_is_no_binlog_or_encrypted_or_missing_is_told_and_other_files_are_printed() {
    let dir = tempfile::tempdir().unwrap();
    let encrypted = dir.path().join("encrypted");
    std::fs::write(&encrypted, b"\xfdbin and more").unwrap();
    let missing = dir.path().join("missing");
    let text = dir.path().join("text");
    std::fs::write(&text, b"hello, world").unwrap();
    let files = vec![encrypted, missing, text, capture("mysql-gtid-crc32.binlog")];
    let (out, errors) = print(true, files);
    assert_eq!(errors.len(), 3);
    for (error, (file, why)) in errors.iter().zip([
        ("encrypted", "at offset 0: encrypted from here on"),
        ("missing", "No such file"),
        ("text", "at offset 0: not a binlog file: it begins with 68656c6c"),
    ]) {
        assert!(error.contains(&format!("/{file}: ")) && error.contains(why), "{error}");
    }
    assert_eq!(lines(&out).len(), of("mysql-gtid-crc32.binlog").len());
}

/// A file of a format description and the given events, all with good checksums.
fn file_of(events: &[(EventKind, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = std::fs::read(capture("mariadb-row-crc32.binlog")).unwrap();
    bytes.truncate(256);
    for (kind, body) in events {
        let size = 19 + body.len() + 4;
        let mut event = vec![0; 19];
        event[4] = kind.0;
        event[9..13].copy_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
        event.extend_from_slice(body);
        event.extend_from_slice(&[0; 4]);
        checksum::sign(&mut event);
        bytes.extend_from_slice(&event);
    }
    bytes
}

/// A TABLE_MAP of table 7 `d`.`t`.
fn table_map(types: &[u8], metadata: &[u8]) -> (EventKind, Vec<u8>) {
    let columns = u8::try_from(types.len()).unwrap();
    let metadata_len = u8::try_from(metadata.len()).unwrap();
    let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, 1, b'd', 0, 1, b't', 0, columns];
    body.extend_from_slice(types);
    body.push(metadata_len);
    body.extend_from_slice(metadata);
    body.extend(vec![0xff; types.len().div_ceil(8)]);
    (EventKind::TABLE_MAP, body)
}

/// An insert into table 7, with all columns.
fn insert(columns: u8, rows: &[u8]) -> (EventKind, Vec<u8>) {
    let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, columns];
    body.extend(vec![0xff; usize::from(columns).div_ceil(8)]);
    body.extend_from_slice(rows);
    (EventKind::WRITE_ROWS_V1, body)
}

#[test]
fn rows_that_cannot_be_decoded_are_hex_with_the_reason() {
    const TINY: u8 = 1;
    const VARCHAR: u8 = 15;
    const DECIMAL: u8 = 246;
    const MARIADB_COMPRESSED_BLOB: u8 = 140;
    let tiny = || table_map(&[TINY], &[]);
    // (events, reason)
    let table = [
        (vec![insert(1, &[0, 5])], "no TABLE_MAP event of table 7 came before"),
        (vec![tiny(), insert(2, &[0, 5])], "the event has 2 columns, its table 1"),
        (vec![tiny(), insert(1, &[0])], "failed to fill whole buffer"),
        (vec![table_map(&[VARCHAR], &[10, 0]), insert(1, &[0, 1, 0xff])], "a string is not UTF-8"),
        (vec![table_map(&[MARIADB_COMPRESSED_BLOB], &[2]), insert(1, &[0, 0, 0])], "Unknown column type 140"),
        (vec![table_map(&[TINY], &[9]), insert(1, &[0, 5])], "0 are expected"),
        // A DECIMAL of precision 1 and scale 200 makes the library compute below zero.
        (vec![table_map(&[DECIMAL], &[1, 200]), insert(1, &[0, 0x80])], "mysql_cdc failed"),
        (vec![tiny(), (EventKind::WRITE_ROWS_V1, vec![7, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0])], "rows of no columns"),
        (vec![table_map(&[TINY; 0], &[]), insert(0, &[0])], "0 columns"),
    ];
    for (events, reason) in table {
        let (out, errors) = print_bytes(true, &file_of(&events));
        assert_eq!(errors, Vec::<String>::new());
        let last = lines(&out).pop().unwrap();
        assert!(last["reason"].as_str().unwrap().contains(reason), "{reason}: {last}");
        assert!(last["rows_hex"].is_string() && last.get("rows").is_none(), "{last}");
    }
}

#[test]
fn names_and_signs_are_taken_from_the_table_map_where_it_tells() {
    let (kind, mut body) = table_map(&[1, 1], &[]);
    body.extend_from_slice(&[1, 1, 0b0100_0000]); // signedness: the second is unsigned
    body.extend_from_slice(&[4, 4, 1, b'a', 1, b'b']); // names
    let (out, _) = print_bytes(true, &file_of(&[(kind, body), insert(2, &[0, 0xff, 0xff])]));
    assert_eq!(lines(&out)[2]["rows"], json!([{"after": {"a": -1, "b": 255}}]));
    let (out, _) = print_bytes(true, &file_of(&[table_map(&[1], &[]), insert(1, &[0, 0xff])]));
    assert_eq!(lines(&out)[2]["rows"][0]["after"]["@1"], json!({"signed": -1, "unsigned": 255}));
}

#[test]
fn times_that_the_library_cuts_are_given_as_bytes_as_well() {
    // TIMESTAMP(6): 4 bytes of seconds and 3 of microseconds, most significant first
    let row = [0, 0x65, 0x53, 0xf1, 0x00, 0x01, 0xe2, 0x40];
    let (out, _) = print_bytes(true, &file_of(&[table_map(&[17], &[6]), insert(1, &row)]));
    let event = &lines(&out)[2];
    assert_eq!(event["rows"][0]["after"]["@1"], "2023-11-14T22:13:20.123Z");
    assert_eq!(event["rows_hex"], "006553f10001e240");
    assert!(event["reason"].as_str().unwrap().contains("cut off"));
}

#[test]
fn terminal_escapes_in_a_log_are_printed_as_text() {
    let statement = [&[0; 8], &[0][..], &[0, 0], &[0, 0], &[0], b"x\x1b[2Jy"].concat();
    let (out, _) = print_bytes(false, &file_of(&[(EventKind::QUERY, statement)]));
    assert!(!out.contains('\x1b') && out.contains(r"\u{1b}"), "{out}");
}

/// A server that answers everything with OK, and a dump with the events of a file behind an artificial rotation.
fn serve(events: Vec<Vec<u8>>, listener: std::net::TcpListener) -> std::thread::JoinHandle<Vec<Vec<u8>>> {
    use std::io::{Read, Write};
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let greeting = Greeting {
            version: "5.5.5-10.11.19-MariaDB-log".into(),
            connection_id: 7,
            scramble: [1; 20],
            capabilities: 0x81ff_f7ff,
            extended: 0,
            charset: 8,
            status: 2,
            auth_plugin: "mysql_native_password".into(),
        };
        let (mut out, mut sequence) = (Vec::new(), 0);
        write_packet(&mut out, &mut sequence, &greeting.encode());
        stream.write_all(&out).unwrap();
        let mut commands = Vec::new();
        loop {
            let mut head = [0; 4];
            stream.read_exact(&mut head).unwrap();
            let (len, seq) = packet::header(head);
            let mut payload = vec![0; len];
            stream.read_exact(&mut payload).unwrap();
            let is_dump = commands.len() > 1 && payload[0] == 0x12;
            commands.push(payload);
            let (mut out, mut sequence) = (Vec::new(), seq.wrapping_add(1));
            if !is_dump {
                write_packet(&mut out, &mut sequence, &[0, 0, 0, 2, 0, 0, 0]);
                stream.write_all(&out).unwrap();
                continue;
            }
            let mut framer = EventFramer::new(1, false);
            for event in &events {
                framer.frame(&mut out, event).unwrap();
            }
            let mut sequence = framer.sequence();
            write_packet(&mut out, &mut sequence, &[0xfe, 0, 0, 2, 0]);
            stream.write_all(&out).unwrap();
            return commands;
        }
    })
}

#[test]
fn a_stream_prints_as_the_file_that_it_comes_from() {
    let name = "mariadb-row-crc32.binlog";
    let bytes = std::fs::read(capture(name)).unwrap();
    let mut events: Vec<Vec<u8>> = EventFile::open(&bytes[..]).unwrap().map(|e| e.unwrap().bytes).collect();
    let rotate = Rotate { position: 4, file: name.into() };
    events.insert(0, rotate.artificial(1, ChecksumAlg::None));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = serve(events, listener);
    let args = EventsArgs { user: Some("repl".into()), start: Some("0-1-5".into()), ..args(true) };
    let (mut out, mut errors) = (Vec::new(), Vec::new());
    assert_eq!(print_live(&args, &address, &mut out, &mut errors).unwrap(), 0);
    let commands = server.join().unwrap();
    assert!(commands.iter().any(|c| c.ends_with(b"SET @slave_connect_state='0-1-5'")));
    assert_eq!(commands.last().unwrap()[1..], [4, 0, 0, 0, 3, 0, 0, 0, 0, 0]);
    let printed = lines(std::str::from_utf8(&out).unwrap());
    assert_eq!(
        (&printed[0]["type"], &printed[0]["position"], &printed[0]["end"]),
        (&json!("ROTATE"), &json!(4), &json!(4))
    );
    assert_eq!(printed[1..], of(name));
}

#[test]
fn a_relay_that_cannot_be_reached_or_refuses_is_named_with_the_reason() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let args = EventsArgs { user: Some("repl".into()), ..args(true) };
    let refusing = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut out, mut sequence) = (Vec::new(), 0);
        write_packet(&mut out, &mut sequence, &ErrPacket::too_many_connections().encode_in_place_of_greeting());
        stream.write_all(&out).unwrap();
    });
    let error = format!("{:#}", print_live(&args, &address, Vec::new(), &mut Vec::new()).unwrap_err());
    assert!(error.starts_with(&format!("logging in at {address} as repl: 1040")), "{error}");
    refusing.join().unwrap();
    let error = format!("{:#}", print_live(&args, &address, Vec::new(), &mut Vec::new()).unwrap_err());
    assert!(error.starts_with(&format!("connecting to {address}: ")), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damaged_files_never_panic(
        name in prop::sample::select(vec!["mariadb-row-nocrc.binlog", "mysql-gtid-crc32.binlog"]),
        damage in prop::collection::vec((4_usize..38_000, any::<u8>()), 1..40),
        cut in 0_usize..40_000,
    ) {
        let mut bytes = std::fs::read(capture(name)).unwrap();
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        bytes.truncate(cut);
        let (out, _) = print_bytes(true, &bytes);
        lines(&out);
        print_bytes(false, &bytes);
    }

    #[test]
    fn damaged_rows_never_panic(position in 0_usize..40, byte in any::<u8>(), size in 1_usize..40) {
        let types = [1, 2, 3, 4, 5, 8, 9, 15, 16, 17, 18, 19, 246, 252, 254];
        let metadata = [4, 8, 10, 0, 3, 1, 0, 6, 0, 10, 2, 2, 0xfe, 30];
        let mut map = table_map(&types, &metadata);
        let at = 14 + position % (map.1.len() - 14);
        map.1[at] = byte;
        let mut rows = vec![0; size];
        rows[position % size] = byte;
        print_bytes(true, &file_of(&[map, insert(15, &rows)]));
    }
}
