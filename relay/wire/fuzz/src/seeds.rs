//! Inputs to begin with, taken from recorded conversations and log files, so that a fuzzer need not find out what a packet is.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use baton_wire::auth::{AuthSwitch, CACHING_SHA2_PASSWORD, CLEAR_PASSWORD, NATIVE_PASSWORD, caching_sha2, native};
use baton_wire::checksum::ChecksumAlg;
use baton_wire::command::Command;
use baton_wire::event::{EventHeader, EventKind, FIRST_EVENT, FormatDescription, body};
use baton_wire::frame::{Deframed, DeframerOptions, EventDeframer};
use baton_wire::handshake::{ClientFirst, ServerFirst};
use baton_wire::packet::{Packet, PacketDecoder};
use baton_wire::semisync::MAGIC;
use bytes::{Bytes, BytesMut};

use super::input::put_chunk;
use super::login::{NONCE, PASSWORD};

/// Longest seed, in bytes; longer ones are cut or left out. A fuzzer is quicker with short ones.
const MAX_SEED: usize = 4096;
/// Most events of one kind that are taken from one stream or file.
const EVENTS_OF_A_KIND: usize = 4;

/// The seeds of each target.
#[derive(Debug, Default)]
pub struct Seeds(BTreeMap<&'static str, BTreeSet<Vec<u8>>>);

impl Seeds {
    /// Reads everything in `captures` that is not packed or compressed.
    ///
    /// # Errors
    /// The directory or a file in it cannot be read.
    pub fn read(captures: &Path) -> io::Result<Self> {
        let mut seeds = Self::default();
        seeds.made_by_hand();
        let mut names: Vec<String> = Vec::new();
        for entry in std::fs::read_dir(captures)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort();
        for name in names.iter().filter(|name| !name.contains("compressed")) {
            if name.ends_with(".binlog") {
                let bytes = std::fs::read(captures.join(name))?;
                seeds.events(&file_events(&bytes), name.contains("mysql"));
            } else if let Some(stem) = name.strip_suffix(".c2s.bin") {
                let client = std::fs::read(captures.join(name))?;
                let server = std::fs::read(captures.join(format!("{stem}.s2c.bin")))?;
                seeds.conversation(stem, &client, &server);
            }
        }
        Ok(seeds)
    }

    /// The seeds of a target, in the same order each time.
    pub fn of(&self, target: &str) -> impl Iterator<Item = &[u8]> {
        self.0.get(target).into_iter().flatten().map(Vec::as_slice)
    }

    /// Writes `corpus/<target>/seed-<number>`.
    ///
    /// # Errors
    /// A directory or file cannot be written.
    pub fn write(&self, corpus: &Path) -> io::Result<()> {
        for (target, seeds) in &self.0 {
            let directory = corpus.join(target);
            std::fs::create_dir_all(&directory)?;
            for (number, seed) in seeds.iter().enumerate() {
                std::fs::write(directory.join(format!("seed-{number:04}")), seed)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, target: &'static str, head: &[u8], bytes: &[u8]) {
        if head.len() + bytes.len() <= MAX_SEED {
            self.0.entry(target).or_default().insert([head, bytes].concat());
        }
    }

    fn add_chunks<'a>(&mut self, target: &'static str, head: &[u8], chunks: impl IntoIterator<Item = &'a [u8]>) {
        let mut out = Vec::new();
        for chunk in chunks {
            put_chunk(&mut out, chunk);
        }
        self.add(target, head, &out);
    }

    fn conversation(&mut self, name: &str, client_bytes: &[u8], server_bytes: &[u8]) {
        let (client, server) = (packets(client_bytes), packets(server_bytes));
        for bytes in [client_bytes, server_bytes] {
            self.add("packet_decoder", &[0, 1], &bytes[..bytes.len().min(MAX_SEED - 2)]);
        }
        let (Some(greeting), Some(response)) = (server.first(), client.first()) else { return };
        self.add("greeting", &[], greeting);
        self.add("client_first", &[], response);
        let capabilities = match (ServerFirst::parse(greeting), ClientFirst::parse(response)) {
            (Ok(ServerFirst::Greeting(g)), Ok(ClientFirst::Response(r))) => g.capabilities & r.capabilities,
            _ => 0,
        };
        let head = capabilities.to_le_bytes();
        for payload in &client[1..] {
            self.add("command", &head, payload);
            if let Ok(Command::BinlogDumpGtid(dump)) = Command::parse(payload, capabilities) {
                self.add("gtid_set", &[], &dump.set);
            }
            if payload.first() == Some(&MAGIC) {
                self.add("semi_sync", &[1], payload);
            }
        }
        let semi_sync = name.contains("semisync");
        self.server_payloads(&server, &head);
        let login: Vec<&[u8]> = server[1..].iter().take(4).map(|payload| &payload[..]).collect();
        for options in 0..4 {
            self.add_chunks("client_auth", &[options, 1], login.iter().copied());
        }
        if let Some(at) = stream_start(server_bytes) {
            let stream = &server_bytes[at..];
            let events = deframed(stream, semi_sync);
            for payload in server.iter().filter(|payload| payload.first() == Some(&0)) {
                self.add("semi_sync", &[semi_sync.into()], payload);
            }
            for settings in [0x3e, 0x3a, 0x32] {
                let head = [settings | u8::from(semi_sync), 1, 7];
                self.add("event_deframer", &head, &stream[..stream.len().min(MAX_SEED - 3)]);
            }
            self.events(&events, name.contains("mysql"));
        }
    }

    fn server_payloads(&mut self, server: &[Bytes], capabilities: &[u8; 4]) {
        for (i, payload) in server.iter().enumerate().skip(1) {
            if payload.len() < 400 {
                self.add("answers", capabilities, payload);
            }
            let is_count = payload.len() == 1 && (1..=8).contains(&payload[0]);
            let answer = || server[i..].iter().take(8).map(|payload| &payload[..]);
            if is_count || (payload.len() < 80 && i < 8) {
                self.add_chunks("result_reader", &[&capabilities[..], &[0, 9]].concat(), answer());
            }
        }
    }

    fn events(&mut self, events: &[Vec<u8>], mysql: bool) {
        let alg = events
            .iter()
            .find_map(|event| FormatDescription::parse(event).ok())
            .map_or(ChecksumAlg::Crc32, |description| description.checksum);
        let head = u8::from(mysql) | if alg.is_empty() { 2 } else { 0 };
        let (mut of_kind, mut run) = (BTreeMap::<EventKind, usize>::new(), Vec::new());
        for event in events {
            let (Ok(header), Ok(body)) = (EventHeader::parse(event), body(event, alg)) else { continue };
            let seen = of_kind.entry(header.kind).or_default();
            *seen += 1;
            if *seen <= EVENTS_OF_A_KIND {
                self.one_event(head, &header, event, body);
            }
            let mut record = vec![header.kind.0, header.flags as u8];
            put_chunk(&mut record, &body[..body.len().min(200)]);
            if run.len() + record.len() > MAX_SEED {
                self.add("transaction_tracker", &[], &std::mem::take(&mut run));
            }
            run.extend_from_slice(&record);
        }
        self.add("transaction_tracker", &[], &run);
    }

    fn one_event(&mut self, head: u8, header: &EventHeader, event: &[u8], body: &[u8]) {
        self.add("event", &[head, 3], event);
        match header.kind {
            EventKind::FORMAT_DESCRIPTION => self.add("format_description", &[], event),
            EventKind::TRANSACTION_PAYLOAD => self.add("transaction_payload", &[], body),
            EventKind::PREVIOUS_GTIDS => {
                self.add("gtid_set", &[], body);
                self.add("gtid_list", &[], body);
            }
            EventKind::GTID_LIST
            | EventKind::MARIADB_GTID
            | EventKind::ROTATE
            | EventKind::BINLOG_CHECKPOINT
            | EventKind::XA_PREPARE => self.add("gtid_list", &[], body),
            EventKind::HEARTBEAT | EventKind::HEARTBEAT_V2 => {
                let form = u8::from(header.kind == EventKind::HEARTBEAT_V2);
                self.add("heartbeat", &[&[head, form][..], &header.log_pos.to_le_bytes()].concat(), body);
            }
            _ => {}
        }
    }

    /// What no capture holds.
    fn made_by_hand(&mut self) {
        for border in 0..16 {
            self.add("large_packets", &[border, border & 3, border, 1], &[]);
        }
        self.add("large_packets", &[4, 1, 5, 1], &[0x43, 9, 0x40, 1, 0xc0, 7]);
        for text in TEXTS {
            self.add("gtid_text", &[], text.as_bytes());
        }
        let proofs = [native::scramble(PASSWORD, &NONCE), caching_sha2::scramble_fast(PASSWORD, &NONCE)];
        let password = [PASSWORD, &[0]].concat();
        for options in 0..16 {
            for (plugin, proof) in proofs.iter().enumerate() {
                for default in 0..2 {
                    let head = [options, default, plugin as u8];
                    self.add_chunks("server_auth", &head, [&proof[..]]);
                    self.add_chunks("server_auth", &head, [&[][..], proof]);
                    self.add_chunks("server_auth", &head, [&[1][..], &password]);
                    self.add_chunks("server_auth", &head, [&[][..], &[1], &[2], &[7; 256]]);
                }
            }
            let switch = |plugin: &str| AuthSwitch { plugin: plugin.into(), data: NONCE.to_vec() }.encode();
            let (to_native, to_sha2) = (switch(NATIVE_PASSWORD), switch(CACHING_SHA2_PASSWORD));
            let to_clear = switch(CLEAR_PASSWORD);
            let full: [&[u8]; 4] = [&to_native, &to_sha2, &[1, 4], &[0, 0, 0, 2, 0, 0, 0]];
            self.add_chunks("client_auth", &[options, options >> 2], full);
            self.add_chunks("client_auth", &[options, options >> 2], [&to_clear[..], b"\xff\x15\x04#28000denied"]);
        }
    }
}

const TEXTS: &[&str] = &[
    "",
    "0-1-100",
    "0-1-100,7-2-5",
    " 7-2-5 , 0-1-100|0-9-50,8-1-1",
    "0-1-18446744073709551615",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:23",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:tag:23",
    "3E11FA47-71CA-11E1-9E33-C80AA9429562:1-3:11:47-49,\n {3e11fa4771ca11e19e33c80aa9429563}:5",
    "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-3:a:5:b_1:7-9|3e11fa47-71ca-11e1-9e33-c80aa9429562:2:a:1-9",
    "3e11fa4771ca11e19e33c80aa9429562:1-3:5-7:9-12|3e11fa4771ca11e19e33c80aa9429562:2-10",
    "3e11fa4771ca11e19e33c80aa9429562:1-9223372036854775806|3e11fa4771ca11e19e33c80aa9429562:5-6",
];

fn packets(bytes: &[u8]) -> Vec<Bytes> {
    let (mut decoder, mut buf) = (PacketDecoder::new(1 << 20), BytesMut::from(bytes));
    let mut packets = Vec::new();
    while let Ok(Some(Packet { payload, .. })) = decoder.decode(&mut buf) {
        packets.push(payload);
    }
    packets
}

/// Where the packet with the artificial ROTATE, the first one of a binlog stream, begins.
fn stream_start(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    for payload in packets(bytes) {
        let event = match payload.as_ref() {
            [0, MAGIC, _, event @ ..] | [0, event @ ..] => event,
            _ => &[],
        };
        let is_first = |header: EventHeader| header.kind == EventKind::ROTATE && header.is_artificial();
        if EventHeader::parse(event).is_ok_and(is_first) {
            return Some(at);
        }
        at += 4 + payload.len();
    }
    None
}

fn deframed(stream: &[u8], semi_sync: bool) -> Vec<Vec<u8>> {
    let options = DeframerOptions { semi_sync, whole_up_to: 1 << 20, ..Default::default() };
    let (mut deframer, mut rest, mut events) = (EventDeframer::new(options), stream, Vec::new());
    while let Ok((consumed, Deframed::EventData { data, .. })) = deframer.next(rest) {
        events.push(data.to_vec());
        rest = &rest[consumed..];
    }
    events
}

fn file_events(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = bytes.get(FIRST_EVENT as usize..).unwrap_or_default();
    let mut events = Vec::new();
    while let Ok(header) = EventHeader::parse(rest) {
        let Some((event, later)) = rest.split_at_checked(header.size as usize) else { break };
        events.push(event.to_vec());
        rest = later;
    }
    events
}
