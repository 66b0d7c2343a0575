//! See `streams::semi_sync`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_wire_fuzz::streams::semi_sync(data));
