//! What values of several sections must satisfy. Pure.

use std::time::Duration;

use super::error::Problem;
use super::value::{Address, duration};

/// A duration within bounds, both written as in the file.
pub(super) fn between(p: &mut Vec<Problem>, key: &str, value: Duration, least: &str, most: &str) {
    let bound = |text| duration(text).unwrap_or_default();
    if value < bound(least) || value > bound(most) {
        p.push(Problem::new(key, format!("allowed: {least} to {most}")).with_value(format!("{value:?}")));
    }
}

/// The name of a cluster: it stands in etcd's keys.
pub(super) fn cluster_name(p: &mut Vec<Problem>, name: &str) {
    let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 63 || !name.chars().all(label) {
        let message = "allowed: 1 to 63 characters of a-z, 0-9 and -";
        p.push(Problem::new("cluster", message).with_value(format!("{name:?}")));
    }
}

/// The name of a node, a relay or a controller.
pub(super) fn member_name(p: &mut Vec<Problem>, key: &str, name: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > 253 || !name.chars().all(plain) {
        let message = "allowed: 1 to 253 characters of letters, digits, '.', '-' and '_'";
        p.push(Problem::new(key, message).with_value(format!("{name:?}")));
    }
}

/// An account on a server.
pub(super) fn account_name(p: &mut Vec<Problem>, key: &str, name: &str) {
    if name.is_empty() || name.len() > 80 || name.chars().any(char::is_control) {
        let message = "allowed: 1 to 80 bytes without control characters";
        p.push(Problem::new(key, message).with_value(format!("{name:?}")));
    }
}

/// What others connect to: a port, and no wildcard.
pub(super) fn reachable(p: &mut Vec<Problem>, key: &str, address: &Address) {
    if address.port == 0 {
        p.push(Problem::new(key, "port 0 can't be connected to").with_value(address));
    }
    if matches!(address.host.as_str(), "0.0.0.0" | "::") {
        let message = "is a wildcard: name the address that others reach";
        p.push(Problem::new(key, message).with_value(address));
    }
}

/// A bearer token.
pub(super) fn token(p: &mut Vec<Problem>, key: &str, token: &str) {
    if token.len() < 8 || !token.bytes().all(|b| b.is_ascii_graphic()) {
        let message = "the token has to be one line of printable ASCII without spaces, 8 characters or more";
        p.push(Problem::new(key, message));
    }
}
