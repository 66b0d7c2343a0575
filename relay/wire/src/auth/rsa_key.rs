//! RSA for the full exchange of `caching_sha2_password` without TLS: OAEP with SHA-1, as `RSA_PKCS1_OAEP_PADDING` of the servers.

use std::fmt;

use rsa::pkcs8::{DecodePublicKey, EncodePublicKey, LineEnding};
use rsa::rand_core::OsRng;
use rsa::{Oaep, RsaPrivateKey, RsaPublicKey};
use sha1::Sha1;

use super::{WHAT, caching_sha2};
use crate::error::{Result, WireError};
use crate::handshake::NONCE_LEN;

const KEY_BITS: usize = 2048;

/// A server's key pair. Making one takes a good part of a second of CPU: make it when a client first needs it, off the event loop.
pub struct ServerKey {
    private: RsaPrivateKey,
    public_pem: String,
}

impl fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerKey(<hidden>)")
    }
}

impl ServerKey {
    /// A new key of 2048 bits, from the operating system's randomness.
    pub fn generate() -> Result<Self> {
        let failed = |e: &dyn fmt::Display| WireError::invalid(WHAT, format!("no RSA key could be made: {e}"));
        let private = RsaPrivateKey::new(&mut OsRng, KEY_BITS).map_err(|e| failed(&e))?;
        let public_pem = private.to_public_key().to_public_key_pem(LineEnding::LF).map_err(|e| failed(&e))?;
        Ok(Self { private, public_pem })
    }

    /// The public half as it is sent to clients (SubjectPublicKeyInfo in PEM).
    pub fn public_pem(&self) -> &str {
        &self.public_pem
    }

    /// The password (without its NUL) that a client encrypted with the public half.
    ///
    /// # Errors
    /// Anything that this key did not encrypt; the error does not say which step failed.
    pub fn decrypt_password(&self, ciphertext: &[u8], nonce: &[u8; NONCE_LEN]) -> Result<Vec<u8>> {
        let failed = || WireError::invalid(WHAT, "the encrypted password cannot be read");
        // Blinded: the time must not tell an attacker about the key.
        let masked = self.private.decrypt_blinded(&mut OsRng, Oaep::new::<Sha1>(), ciphertext).map_err(|_| failed())?;
        let mut password = caching_sha2::mask(&masked, nonce);
        match password.pop() {
            Some(0) => Ok(password),
            _ => Err(failed()),
        }
    }
}

/// `password` and a NUL, masked with the nonce and encrypted for the server whose public key is `pem`.
///
/// # Errors
/// A key that cannot be read, or a password too long for it (213 bytes at 2048 bits).
pub(super) fn encrypt_password(password: &[u8], nonce: &[u8; NONCE_LEN], pem: &str) -> Result<Vec<u8>> {
    let key = RsaPublicKey::from_public_key_pem(pem)
        .map_err(|e| WireError::invalid(WHAT, format!("the server's RSA key cannot be read: {e}")))?;
    let masked = caching_sha2::mask(&[password, &[0]].concat(), nonce);
    key.encrypt(&mut OsRng, Oaep::new::<Sha1>(), &masked).map_err(|e| {
        WireError::invalid(WHAT, format!("the password cannot be encrypted for the server's RSA key: {e}"))
    })
}
