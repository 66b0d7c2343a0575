//! The server's side of a login, as a state machine: payloads in, payloads out.

use std::fmt;
use std::sync::LazyLock;

use super::{AuthSwitch, CACHING_SHA2_PASSWORD, NATIVE_PASSWORD, ServerKey, StoredPassword, caching_sha2, native};
use crate::capabilities::{CLIENT_PLUGIN_AUTH, has};
use crate::handshake::{HandshakeResponse, NONCE_LEN};

/// Longest RSA ciphertext that is looked at, in bytes (a key of 4096 bits).
const MAX_CIPHERTEXT: usize = 512;

/// What to do after a payload from the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAuthStep {
    /// Send this payload, then wait for the client's next one.
    Send(Vec<u8>),
    /// The RSA key is needed: call [`ServerAuth::on_key`] with it (it may be asked for twice in one login).
    NeedKey,
    /// The password is right: send this payload, if any, and then OK.
    Accept {
        /// `01 03` of `caching_sha2_password`.
        send: Option<Vec<u8>>,
    },
    /// Send error 1045 and close.
    Deny,
}

enum State {
    /// The handshake response is awaited.
    Greeted,
    /// An answer of this method is awaited, after a switch.
    Native,
    Sha2,
    /// `01 04` was sent: the password in TLS is awaited, or a request for the key, or the encrypted password.
    Full,
    /// The key is awaited, to be sent.
    KeyToSend,
    /// The key is awaited, to decrypt this.
    KeyToDecrypt(Vec<u8>),
    /// The key was sent: the encrypted password is awaited.
    Encrypted,
    /// The verdict was given.
    Finished,
}

/// A server that verifies one login. It never tells whether a user exists: an unknown one goes through the same steps and is denied at
/// the end of them.
pub struct ServerAuth {
    default_plugin: String,
    nonce: [u8; NONCE_LEN],
    secure: bool,
    stored: StoredPassword,
    known: bool,
    state: State,
}

impl fmt::Debug for ServerAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerAuth")
            .field("default_plugin", &self.default_plugin)
            .field("secure", &self.secure)
            .finish_non_exhaustive()
    }
}

/// Stands for the password of users that do not exist; no login with it succeeds, since `known` is asked too.
static NOBODY: LazyLock<StoredPassword> = LazyLock::new(|| StoredPassword::new(b"nobody has this password"));

impl ServerAuth {
    /// A login on a connection whose greeting named `default_plugin` and `nonce`; `secure`: inside TLS. The nonce must be fresh and
    /// random, without NUL bytes.
    pub fn new(default_plugin: &str, nonce: [u8; NONCE_LEN], secure: bool) -> Self {
        Self {
            default_plugin: default_plugin.to_owned(),
            nonce,
            secure,
            stored: NOBODY.clone(),
            known: false,
            state: State::Greeted,
        }
    }

    /// Takes the handshake response; `stored` is what is kept of this user's password, `None` for an unknown user.
    pub fn on_response(&mut self, response: &HandshakeResponse, stored: Option<&StoredPassword>) -> ServerAuthStep {
        self.known = stored.is_some();
        self.stored = stored.unwrap_or(&NOBODY).clone();
        let can_switch = has(response.capabilities, CLIENT_PLUGIN_AUTH);
        let plugin = response.auth_plugin.as_deref().unwrap_or(NATIVE_PASSWORD);
        let nothing_given = is_nothing(&response.auth) && !self.stored.empty;
        match plugin {
            // MariaDB replicas give an empty answer to a greeting that names a method they lack, and wait to be asked.
            NATIVE_PASSWORD if nothing_given && can_switch && self.default_plugin != NATIVE_PASSWORD => {
                self.switch_to(NATIVE_PASSWORD)
            }
            NATIVE_PASSWORD => self.on_native(&response.auth),
            CACHING_SHA2_PASSWORD if nothing_given && can_switch => self.switch_to(CACHING_SHA2_PASSWORD),
            CACHING_SHA2_PASSWORD => self.on_sha2(&response.auth),
            _ if can_switch => self.switch_to(NATIVE_PASSWORD),
            _ => self.verdict(false, None),
        }
    }

    /// Takes a further payload of the client.
    pub fn on_packet(&mut self, payload: &[u8]) -> ServerAuthStep {
        match std::mem::replace(&mut self.state, State::Finished) {
            State::Native => self.on_native(payload),
            State::Sha2 => self.on_sha2(payload),
            State::Full if self.secure => {
                let password = payload.strip_suffix(&[0]).unwrap_or(payload);
                self.on_password(password)
            }
            State::Full if payload == [caching_sha2::REQUEST_PUBLIC_KEY] => {
                self.state = State::KeyToSend;
                ServerAuthStep::NeedKey
            }
            State::Full | State::Encrypted if payload.len() <= MAX_CIPHERTEXT => {
                self.state = State::KeyToDecrypt(payload.to_vec());
                ServerAuthStep::NeedKey
            }
            _ => self.verdict(false, None),
        }
    }

    /// Goes on after [`ServerAuthStep::NeedKey`]. Decrypting takes a millisecond or two of CPU.
    pub fn on_key(&mut self, key: &ServerKey) -> ServerAuthStep {
        match std::mem::replace(&mut self.state, State::Finished) {
            State::KeyToSend => {
                self.state = State::Encrypted;
                let mut message = vec![caching_sha2::MORE_DATA];
                message.extend_from_slice(key.public_pem().as_bytes());
                ServerAuthStep::Send(message)
            }
            State::KeyToDecrypt(ciphertext) => match key.decrypt_password(&ciphertext, &self.nonce) {
                Ok(password) => self.on_password(&password),
                Err(_) => self.verdict(false, None),
            },
            _ => self.verdict(false, None),
        }
    }

    fn switch_to(&mut self, plugin: &str) -> ServerAuthStep {
        self.state = if plugin == NATIVE_PASSWORD { State::Native } else { State::Sha2 };
        ServerAuthStep::Send(AuthSwitch { plugin: plugin.to_owned(), data: self.nonce.to_vec() }.encode())
    }

    fn on_native(&mut self, proof: &[u8]) -> ServerAuthStep {
        let right = match proof {
            [] => self.stored.empty,
            _ => native::verify(proof, &self.nonce, &self.stored.native),
        };
        self.verdict(right, None)
    }

    fn on_sha2(&mut self, proof: &[u8]) -> ServerAuthStep {
        if is_nothing(proof) {
            return self.verdict(self.stored.empty, None);
        }
        if proof.len() != caching_sha2::DIGEST_LEN {
            self.state = State::Full;
            return ServerAuthStep::Send(vec![caching_sha2::MORE_DATA, caching_sha2::PERFORM_FULL_AUTH]);
        }
        let right = caching_sha2::verify_fast(proof, &self.nonce, &self.stored.sha2);
        self.verdict(right, Some(vec![caching_sha2::MORE_DATA, caching_sha2::FAST_AUTH_SUCCESS]))
    }

    fn on_password(&mut self, password: &[u8]) -> ServerAuthStep {
        let right = caching_sha2::verify_password(password, &self.stored.sha2);
        self.verdict(right, None)
    }

    fn verdict(&mut self, right: bool, send: Option<Vec<u8>>) -> ServerAuthStep {
        self.state = State::Finished;
        if right && self.known { ServerAuthStep::Accept { send } } else { ServerAuthStep::Deny }
    }
}

/// Whether an answer stands for an empty password: nothing, or the single NUL of `caching_sha2_password`.
fn is_nothing(proof: &[u8]) -> bool {
    matches!(proof, [] | [0])
}
