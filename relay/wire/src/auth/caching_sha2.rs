//! `caching_sha2_password`: `SHA256(password) xor SHA256(SHA256(SHA256(password)) + nonce)` (MySQL internals, "Caching SHA-2
//! Authentication"), its one-byte messages, and the masking of a password before RSA.

use sha2::{Digest, Sha256};

use super::{equal_in_constant_time, xor};
use crate::handshake::NONCE_LEN;

/// Bytes of a digest and of a proof.
pub const DIGEST_LEN: usize = 32;

/// First byte of the server's messages between the login and OK.
pub const MORE_DATA: u8 = 0x01;
/// Behind [`MORE_DATA`]: the proof holds, OK follows.
pub const FAST_AUTH_SUCCESS: u8 = 0x03;
/// Behind [`MORE_DATA`]: the password itself is wanted, inside TLS or RSA.
pub const PERFORM_FULL_AUTH: u8 = 0x04;
/// The client's request for the server's RSA key.
pub const REQUEST_PUBLIC_KEY: u8 = 0x02;

fn sha256(parts: &[&[u8]]) -> [u8; DIGEST_LEN] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// `SHA256(SHA256(password))`: what a server caches.
pub fn stored_digest(password: &[u8]) -> [u8; DIGEST_LEN] {
    sha256(&[&sha256(&[password])])
}

/// The proof of `password`; nothing for an empty one.
pub fn scramble_fast(password: &[u8], nonce: &[u8; NONCE_LEN]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = sha256(&[password]);
    xor(&once, &sha256(&[&sha256(&[&once]), nonce])).to_vec()
}

/// Whether `proof` was made with the password of `stored` ([`stored_digest`]). An empty proof never is: empty passwords are the
/// caller's to judge.
pub fn verify_fast(proof: &[u8], nonce: &[u8; NONCE_LEN], stored: &[u8; DIGEST_LEN]) -> bool {
    let Ok(proof) = <&[u8; DIGEST_LEN]>::try_from(proof) else { return false };
    let once = xor(proof, &sha256(&[stored, nonce]));
    equal_in_constant_time(&sha256(&[&once]), stored)
}

/// Whether `password` (as it arrives in the full exchange, without its NUL) is the one of `stored`.
pub fn verify_password(password: &[u8], stored: &[u8; DIGEST_LEN]) -> bool {
    equal_in_constant_time(&stored_digest(password), stored)
}

/// `password` masked with the nonce, over and over: applied before RSA, and again after it to get the password back.
pub(super) fn mask(password: &[u8], nonce: &[u8; NONCE_LEN]) -> Vec<u8> {
    password.iter().zip(nonce.iter().cycle()).map(|(p, n)| p ^ n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn proofs_agree_with_another_implementation_and_verify(
            password in prop::collection::vec(any::<u8>(), 1..40),
            nonce in any::<[u8; NONCE_LEN]>(),
            flip in 0usize..DIGEST_LEN,
        ) {
            let mut proof = scramble_fast(&password, &nonce);
            prop_assert_eq!(proof.as_slice(), &mysql_common::scramble::scramble_sha256(&nonce, &password).unwrap()[..]);
            let stored = stored_digest(&password);
            prop_assert!(verify_fast(&proof, &nonce, &stored));
            prop_assert!(verify_password(&password, &stored));
            proof[flip] ^= 1;
            prop_assert!(!verify_fast(&proof, &nonce, &stored));
        }

        #[test]
        fn masking_twice_gives_the_password_back(password in prop::collection::vec(any::<u8>(), 0..60), nonce in any::<[u8; NONCE_LEN]>()) {
            prop_assert_eq!(mask(&mask(&password, &nonce), &nonce), password);
        }
    }
}
