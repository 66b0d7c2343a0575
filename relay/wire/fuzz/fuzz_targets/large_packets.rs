//! See `streams::large_packets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_wire_fuzz::streams::large_packets(data));
