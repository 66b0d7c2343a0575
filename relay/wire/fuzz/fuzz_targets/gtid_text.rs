//! See `gtids::gtid_text`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_wire_fuzz::gtids::gtid_text(data));
