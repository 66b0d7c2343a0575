//! See `session::result_reader`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_wire_fuzz::session::result_reader(data));
