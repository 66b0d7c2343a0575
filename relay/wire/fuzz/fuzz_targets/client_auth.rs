//! See `login::client_auth`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_wire_fuzz::login::client_auth(data));
