//! See `session::client_first`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_wire_fuzz::session::client_first(data));
