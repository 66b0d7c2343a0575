//! The process shell of `batonctl`: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    baton_failover::ctl::main()
}
