//! The properties that the fuzz targets check, over their seeds and over mutations of these: a short fuzzing without the tool.
//!
//! `BATON_FUZZ_SEED` (a number) and `BATON_FUZZ_ROUNDS` (mutations of each target) choose another and a longer run.
#![allow(missing_docs)]

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub)]
mod fuzz;

use std::path::PathBuf;

use fuzz::input::Numbers;
use fuzz::seeds::Seeds;
use fuzz::{Body, TARGETS};

/// Mutations of each target; few enough for the whole to take seconds in an unoptimized build.
const ROUNDS: usize = 4000;
/// The large packets are 16 MiB each.
const LARGE_ROUNDS: usize = 3;
/// Here a login gets its RSA key, which is slow.
const KEY_ROUNDS: usize = 200;

fn directory(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), name].iter().collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

/// Tells which input it was, if the check of it panics.
struct Running<'a> {
    target: &'a str,
    input: &'a [u8],
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("target {} fails with {:02x?}", self.target, self.input);
        }
    }
}

fn run(target: &str, body: Body, input: &[u8]) {
    let _running = Running { target, input };
    body(input);
}

/// One to four changes of the kinds that fuzzers make; `other` is a seed to splice with.
fn mutated(input: &[u8], other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    const TELLING: [u8; 8] = [0, 1, 0x7f, 0x80, 0xfb, 0xfc, 0xfe, 0xff];
    let mut out = input.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(out.len() + 1);
        match numbers.below(8) {
            0 => out.truncate(at),
            1 => out.insert(at, numbers.next() as u8),
            2 => out.extend_from_slice(&other[other.len().min(at)..]),
            3 => drop(out.drain(at..(at + 1 + numbers.below(8)).min(out.len()).max(at))),
            4 => {
                let copied = out[at..(at + numbers.below(32)).min(out.len())].to_vec();
                out.splice(at..at, copied);
            }
            5 => set(&mut out, at, |_| TELLING[numbers.below(TELLING.len())]),
            6 => set(&mut out, at, |byte| byte.wrapping_add(1)),
            _ => {
                let bit = 1 << numbers.below(8);
                set(&mut out, at, |byte| byte ^ bit);
            }
        }
    }
    out
}

fn set(bytes: &mut [u8], at: usize, change: impl FnOnce(u8) -> u8) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte = change(*byte);
    }
}

#[test]
fn properties_hold_for_recorded_and_for_mutated_bytes() {
    let seed = number("BATON_FUZZ_SEED").unwrap_or(1);
    println!("BATON_FUZZ_SEED={seed}");
    let seeds = Seeds::read(&directory("tests/captures")).unwrap();
    for (i, (target, body)) in TARGETS.iter().enumerate() {
        let inputs: Vec<&[u8]> = seeds.of(target).collect();
        assert!(!inputs.is_empty(), "{target} has no seeds");
        let (body, rounds) = match *target {
            "large_packets" => (body, LARGE_ROUNDS),
            "server_auth" => (&(fuzz::login::server_auth_with_key as Body), KEY_ROUNDS),
            _ => (body, ROUNDS),
        };
        let rounds = number("BATON_FUZZ_ROUNDS").map_or(rounds, |rounds| rounds as usize);
        if *target != "large_packets" {
            inputs.iter().for_each(|input| run(target, *body, input));
        }
        let mut numbers = Numbers(seed.wrapping_add(i as u64));
        run(target, *body, &[]);
        for _ in 0..rounds {
            let (one, other) = (inputs[numbers.below(inputs.len())], inputs[numbers.below(inputs.len())]);
            run(target, *body, &mutated(one, other, &mut numbers));
        }
    }
}

#[test]
fn every_target_has_its_file_and_its_name_in_the_manifest() {
    let mut files: Vec<String> = std::fs::read_dir(directory("fuzz/fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let mut names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    assert_eq!(files, names);
    let manifest = std::fs::read_to_string(directory("fuzz/Cargo.toml")).unwrap();
    for name in names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not in fuzz/Cargo.toml");
    }
}
