//! What must hold for any bytes that `baton-wire` reads, one function a parser.
//!
//! Owns the properties and the seeds; used by the fuzz targets and, with mutated seeds, by the plain test `fuzz_bodies` of the wire
//! crate. A function returns if its property holds for the input and panics if not. Never reads files but the captures.

pub mod events;
pub mod gtids;
pub mod input;
pub mod login;
pub mod seeds;
pub mod session;
pub mod streams;

/// Checks one property for one input.
pub type Body = fn(&[u8]);

/// All targets: their names, which are those of the files in `fuzz_targets`, and what they check.
pub const TARGETS: &[(&str, Body)] = &[
    ("packet_decoder", streams::packet_decoder),
    ("large_packets", streams::large_packets),
    ("event_deframer", streams::event_deframer),
    ("semi_sync", streams::semi_sync),
    ("greeting", session::greeting),
    ("client_first", session::client_first),
    ("command", session::command),
    ("answers", session::answers),
    ("result_reader", session::result_reader),
    ("server_auth", login::server_auth),
    ("client_auth", login::client_auth),
    ("event", events::event),
    ("format_description", events::format_description),
    ("gtid_list", events::gtid_list),
    ("transaction_payload", events::transaction_payload),
    ("heartbeat", events::heartbeat),
    ("transaction_tracker", events::transaction_tracker),
    ("gtid_text", gtids::gtid_text),
    ("gtid_set", gtids::gtid_set),
];
