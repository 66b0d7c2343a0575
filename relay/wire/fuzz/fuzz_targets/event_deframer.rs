//! See `streams::event_deframer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_wire_fuzz::streams::event_deframer(data));
