//! Reads the captured conversations and log files.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::io::Read;
use std::path::PathBuf;

use baton_wire::event::{EventHeader, FIRST_EVENT};
use baton_wire::frame::{Deframed, DeframerOptions, EventDeframer};

/// Captures that hold a binlog stream, and whether semi-sync was negotiated.
pub const STREAMS: &[(&str, bool)] = &[
    ("a-mariadb-filepos", false),
    ("b-mariadb-gtid-empty", false),
    ("c-mariadb-gtid-midlog", false),
    ("d-mariadb-semisync", true),
    ("g-mariadb-heartbeat", false),
    ("i-mariadb-checksum-mix", false),
    ("l-mariadb-binlog-raw", false),
    ("l-mariadb-binlog-raw-to-last", false),
    ("l-mariadb-binlog-raw-stop-never", false),
    ("m-mariadb-compressed", false),
    ("k-mariadb-17mb-event", false),
    ("k-mariadb-exact-16mb", false),
    ("mysql-a-gtid-empty", false),
    ("mysql-a-gtid-nonempty", false),
    ("mysql-b-filepos", false),
    ("mysql-c-semisync", true),
    ("mysql-d-heartbeat-v2", false),
    ("mysql-e-fast-auth", false),
    ("mysql-f-tagged-gtid-set", false),
    ("mysql-f-tagged-gtid-event", false),
    ("mysql-g-trx-payload", false),
];

/// Captured log files.
pub const FILES: &[&str] = &["mariadb-row-crc32.binlog", "mariadb-row-nocrc.binlog", "mysql-gtid-crc32.binlog"];

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "captures", name].iter().collect()
}

/// A captured file's bytes, unpacked if only a `.gz` of it is kept.
pub fn read(name: &str) -> Vec<u8> {
    if let Ok(bytes) = std::fs::read(path(name)) {
        return bytes;
    }
    let packed = std::fs::read(path(&format!("{name}.gz"))).unwrap_or_else(|e| panic!("{name}: {e}"));
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut out).unwrap();
    out
}

/// The part of a server's bytes that is the binlog stream: from the packet with the artificial ROTATE to the end.
pub fn stream(name: &str) -> Vec<u8> {
    let mut bytes = read(&format!("{name}.s2c.bin"));
    if name.contains("compressed") {
        bytes = uncompress(&bytes);
    }
    let mut at = 0;
    while at + 4 < bytes.len() {
        let len = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0]) as usize;
        let payload = &bytes[at + 4..at + 4 + len];
        let event = match payload {
            [0, 0xef, _, event @ ..] => event,
            [0, event @ ..] => event,
            _ => &[],
        };
        if event.len() >= 19 && event[..5] == [0, 0, 0, 0, 4] && event[17] == 0x20 {
            return bytes[at..].to_vec();
        }
        at += 4 + len;
    }
    panic!("{name} has no stream");
}

/// The compressed protocol begins behind the greeting and the OK.
fn uncompress(bytes: &[u8]) -> Vec<u8> {
    let mut at = 0;
    for _ in 0..2 {
        at += 4 + u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], 0]) as usize;
    }
    let mut out = bytes[..at].to_vec();
    while at < bytes.len() {
        let u24 = |i: usize| u32::from_le_bytes([bytes[at + i], bytes[at + i + 1], bytes[at + i + 2], 0]) as usize;
        let (len, unpacked) = (u24(0), u24(4));
        let payload = &bytes[at + 7..at + 7 + len];
        if unpacked == 0 {
            out.extend_from_slice(payload);
        } else {
            let before = out.len();
            flate2::read::ZlibDecoder::new(payload).read_to_end(&mut out).unwrap();
            assert_eq!(out.len() - before, unpacked);
        }
        at += 7 + len;
    }
    out
}

pub fn options(name: &str, semi_sync: bool) -> DeframerOptions {
    DeframerOptions {
        semi_sync,
        first_sequence: 1,
        check_sequence: !name.contains("compressed"),
        whole_up_to: 1000,
        ..Default::default()
    }
}

/// An event as it came, and its semi-sync flag.
pub type Received = (Vec<u8>, Option<bool>);

/// Everything in `stream`, fed in the slices that `cut` gives; whether it ended with an EOF packet; how many pieces there were.
pub fn deframe(
    stream: &[u8],
    options: DeframerOptions,
    mut cut: impl FnMut() -> usize,
) -> (Vec<Received>, bool, usize) {
    let mut deframer = EventDeframer::new(options);
    let (mut from, mut to) = (0, 0);
    let (mut events, mut current, mut pieces) = (Vec::new(), Vec::new(), 0);
    loop {
        match deframer.next(&stream[from..to]).unwrap() {
            (0, Deframed::NeedMore(wanted)) => {
                assert!(wanted > to - from, "asked for {wanted} bytes, has {}", to - from);
                if to == stream.len() {
                    assert_eq!(from, to, "bytes are left over");
                    assert!(!deframer.inside_event());
                    return (events, false, pieces);
                }
                to = stream.len().min(to + cut().max(1));
            }
            (n, Deframed::EventData { header, first, data, last, semi_sync_flag }) => {
                from += n;
                pieces += 1;
                assert_eq!(first, current.is_empty());
                current.extend_from_slice(data);
                if last {
                    assert_eq!(current.len(), header.size as usize);
                    events.push((std::mem::take(&mut current), semi_sync_flag));
                }
            }
            (_, Deframed::Eof) => return (events, true, pieces),
            other => panic!("{other:?}"),
        }
    }
}

/// All events of a captured stream.
pub fn events(name: &str, semi_sync: bool) -> Vec<Received> {
    let stream = stream(name);
    let whole = stream.len();
    deframe(&stream, options(name, semi_sync), || whole).0
}

/// All events of a captured file.
pub fn file_events(name: &str) -> Vec<Vec<u8>> {
    let bytes = read(name);
    let mut at = FIRST_EVENT as usize;
    let mut out = Vec::new();
    while at < bytes.len() {
        let size = EventHeader::parse(&bytes[at..]).unwrap().size as usize;
        out.push(bytes[at..at + size].to_vec());
        at += size;
    }
    out
}
