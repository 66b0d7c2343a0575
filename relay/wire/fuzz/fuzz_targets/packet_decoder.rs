//! See `streams::packet_decoder`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_wire_fuzz::streams::packet_decoder(data));
