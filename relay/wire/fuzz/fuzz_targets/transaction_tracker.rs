//! See `events::transaction_tracker`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| baton_wire_fuzz::events::transaction_tracker(data));
