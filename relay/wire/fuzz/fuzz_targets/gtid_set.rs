//! See `gtids::gtid_set`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_wire_fuzz::gtids::gtid_set(data));
