//! Proving passwords without sockets: the methods, what is stored of a password, and both sides as state machines.
//!
//! Owns `mysql_native_password` and `caching_sha2_password` (MySQL internals, "Authentication Methods"), on the client side also
//! `mysql_clear_password` inside TLS. Promises: comparisons take the same time whatever differs; an unknown user goes through the same
//! steps as a known one; no password, proof or key shows in `Debug` or errors. Never reads password files.

mod client;
#[cfg(test)]
mod login_tests;
mod rsa_key;
mod server;

pub mod caching_sha2;
pub mod native;

use std::fmt;

pub use client::{ClientAuth, ClientAuthStep};
pub use rsa_key::ServerKey;
pub use server::{ServerAuth, ServerAuthStep};

use crate::error::{Result, WireError};
use crate::handshake::NONCE_LEN;
use crate::put;
use crate::read::Reader;

/// Name of the method of MariaDB, and of MySQL up to 8: SHA-1 against a nonce.
pub const NATIVE_PASSWORD: &str = "mysql_native_password";
/// Name of the method of MySQL 8 and later: SHA-256 against a nonce, or the password inside TLS or RSA.
pub const CACHING_SHA2_PASSWORD: &str = "caching_sha2_password";
/// Name of the method that sends the password as it is.
pub const CLEAR_PASSWORD: &str = "mysql_clear_password";

const WHAT: &str = "authentication";

/// What is kept of a user's password: enough to verify each method, not the password.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredPassword {
    native: [u8; native::DIGEST_LEN],
    sha2: [u8; caching_sha2::DIGEST_LEN],
    empty: bool,
}

impl StoredPassword {
    /// Derives what is kept from the password.
    pub fn new(password: &[u8]) -> Self {
        Self {
            native: native::stored_digest(password),
            sha2: caching_sha2::stored_digest(password),
            empty: password.is_empty(),
        }
    }
}

impl fmt::Debug for StoredPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredPassword(<hidden>)")
    }
}

/// `AuthSwitchRequest`: the server asks for another method.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthSwitch {
    /// Name of the method.
    pub plugin: String,
    /// What the method needs: for the methods here the nonce, without its trailing NUL.
    pub data: Vec<u8>,
}

impl fmt::Debug for AuthSwitch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthSwitch").field("plugin", &self.plugin).finish_non_exhaustive()
    }
}

impl AuthSwitch {
    /// Payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0xfe];
        put::nul_terminated(&mut out, self.plugin.as_bytes());
        out.extend_from_slice(&self.data);
        out.push(0);
        out
    }

    /// Reads a payload. A bare `fe` asks for the method from before 4.1 and is refused.
    pub fn parse(payload: &[u8]) -> Result<Self> {
        let mut r = Reader::new("authentication switch request", payload);
        if r.u8()? != 0xfe {
            return Err(WireError::invalid(WHAT, "not a switch request"));
        }
        if r.is_empty() {
            let detail = "the server asks for the password hashing from before version 4.1, which is not supported";
            return Err(WireError::invalid(WHAT, detail));
        }
        let plugin = put::text(r.nul_terminated()?);
        let data = r.take_rest();
        Ok(Self { plugin, data: data.strip_suffix(&[0]).unwrap_or(data).to_vec() })
    }

    /// The nonce.
    fn nonce(&self) -> Result<[u8; NONCE_LEN]> {
        // Stripping the trailing NUL could only have hit the nonce itself if it were sent bare and ended with 0; nonces hold no 0.
        self.data.first_chunk().copied().ok_or_else(|| {
            let detail = format!("the nonce for {} has {} bytes, expected {NONCE_LEN}", self.plugin, self.data.len());
            WireError::invalid(WHAT, detail)
        })
    }
}

/// A fresh nonce from the operating system's randomness, in the bytes that servers use: 7 bits, neither NUL nor `$`.
pub fn fresh_nonce() -> [u8; NONCE_LEN] {
    std::array::from_fn(|_| {
        let byte = rand::random_range(1..=126u8);
        // 126 values without `$`: those from `$` on move up by one.
        if byte >= b'$' { byte + 1 } else { byte }
    })
}

/// Equality whose time depends on the lengths only.
fn equal_in_constant_time(a: &[u8], b: &[u8]) -> bool {
    let differing = a.iter().zip(b).fold(0, |acc, (x, y)| std::hint::black_box(acc | (x ^ y)));
    a.len() == b.len() && differing == 0
}

/// `a` xor `b`.
fn xor<const N: usize>(a: &[u8; N], b: &[u8; N]) -> [u8; N] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_switch_request_ends_with_a_nul_that_is_no_part_of_the_nonce() {
        let switch = AuthSwitch { plugin: NATIVE_PASSWORD.into(), data: vec![b'n'; 20] };
        let bytes = switch.encode();
        assert_eq!(bytes.len(), 1 + NATIVE_PASSWORD.len() + 1 + 20 + 1);
        assert_eq!(AuthSwitch::parse(&bytes).unwrap(), switch);
        assert!(AuthSwitch::parse(&[0xfe]).unwrap_err().to_string().contains("before version 4.1"));
    }

    #[test]
    fn fresh_nonces_differ_and_hold_only_the_bytes_that_servers_use() {
        let nonces: Vec<_> = (0..200).map(|_| fresh_nonce()).collect();
        assert!(nonces.iter().flatten().all(|b| (1..=127).contains(b) && *b != b'$'));
        assert!(nonces.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn debug_shows_no_digest() {
        assert_eq!(format!("{:?}", StoredPassword::new(b"replpw")), "StoredPassword(<hidden>)");
    }

    proptest! {
        #[test]
        fn constant_time_equality_is_equality(a in prop::collection::vec(0u8..2, 0..4), b in prop::collection::vec(0u8..2, 0..4)) {
            prop_assert_eq!(equal_in_constant_time(&a, &b), a == b);
        }

        #[test]
        fn random_switch_requests_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = AuthSwitch::parse(&bytes).and_then(|s| s.nonce());
            let _ = AuthSwitch::parse(&[&[0xfe][..], &bytes].concat()).and_then(|s| s.nonce());
        }
    }
}
