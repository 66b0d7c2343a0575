//! `mysql_native_password`: `SHA1(password) xor SHA1(nonce + SHA1(SHA1(password)))` (MySQL internals, "Native Authentication").

use sha1::{Digest, Sha1};

use super::{equal_in_constant_time, xor};
use crate::handshake::NONCE_LEN;

/// Bytes of a digest and of a proof.
pub const DIGEST_LEN: usize = 20;

fn sha1(parts: &[&[u8]]) -> [u8; DIGEST_LEN] {
    let mut hasher = Sha1::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// `SHA1(SHA1(password))`: what a server stores.
pub fn stored_digest(password: &[u8]) -> [u8; DIGEST_LEN] {
    sha1(&[&sha1(&[password])])
}

/// The proof of `password`; nothing for an empty one.
pub fn scramble(password: &[u8], nonce: &[u8; NONCE_LEN]) -> Vec<u8> {
    if password.is_empty() {
        return Vec::new();
    }
    let once = sha1(&[password]);
    xor(&once, &sha1(&[nonce, &sha1(&[&once])])).to_vec()
}

/// Whether `proof` was made with the password of `stored` ([`stored_digest`]). An empty proof never is: empty passwords are the
/// caller's to judge.
pub fn verify(proof: &[u8], nonce: &[u8; NONCE_LEN], stored: &[u8; DIGEST_LEN]) -> bool {
    let Ok(proof) = <&[u8; DIGEST_LEN]>::try_from(proof) else { return false };
    let once = xor(proof, &sha1(&[nonce, stored]));
    equal_in_constant_time(&sha1(&[&once]), stored)
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
            let mut proof = scramble(&password, &nonce);
            prop_assert_eq!(proof.as_slice(), &mysql_common::scramble::scramble_native(&nonce, &password).unwrap()[..]);
            let stored = stored_digest(&password);
            prop_assert!(verify(&proof, &nonce, &stored));
            proof[flip] ^= 1;
            prop_assert!(!verify(&proof, &nonce, &stored));
        }
    }

    #[test]
    fn an_empty_proof_never_verifies() {
        assert!(scramble(b"", &[1; NONCE_LEN]).is_empty());
        assert!(!verify(b"", &[1; NONCE_LEN], &stored_digest(b"")));
    }
}
