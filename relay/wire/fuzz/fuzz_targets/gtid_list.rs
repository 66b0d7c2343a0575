//! See `events::gtid_list`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_wire_fuzz::events::gtid_list(data));
