//! Writes the seeds of the fuzz targets into the directory that is named: `cargo run -p baton-wire --example fuzz_seeds -- <corpus>`.

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, unreachable_pub)]
mod fuzz;

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    let Some(corpus) = std::env::args_os().nth(1) else {
        return Err(Error::new(ErrorKind::InvalidInput, "name the directory that the seeds shall go to"));
    };
    let captures: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "captures"].iter().collect();
    fuzz::seeds::Seeds::read(&captures)?.write(Path::new(&corpus))
}
