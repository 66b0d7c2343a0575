//! See `login::server_auth`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_wire_fuzz::login::server_auth(data));
