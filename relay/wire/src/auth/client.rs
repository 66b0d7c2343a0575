//! The client's side of a login, as a state machine: payloads in, payloads out.

use std::fmt;

use super::rsa_key::encrypt_password;
use super::{AuthSwitch, CACHING_SHA2_PASSWORD, CLEAR_PASSWORD, NATIVE_PASSWORD, WHAT, caching_sha2, native};
use crate::error::{Result, WireError};
use crate::handshake::{Greeting, NONCE_LEN};
use crate::response::ErrPacket;

/// Most switches of method that a server may ask for; MariaDB tries each method of an account in turn.
const MAX_SWITCHES: u8 = 8;

/// What to do after a payload from the server.
#[derive(Clone, PartialEq, Eq)]
pub enum ClientAuthStep {
    /// Send this payload (it may be empty), then wait for the next one.
    Send(Vec<u8>),
    /// Nothing to send: wait for the next payload.
    Wait,
    /// The login is done.
    Done,
    /// The server refuses it.
    Refused(ErrPacket),
}

impl fmt::Debug for ClientAuthStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(bytes) => write!(f, "Send(<{} bytes>)", bytes.len()),
            Self::Wait => f.write_str("Wait"),
            Self::Done => f.write_str("Done"),
            Self::Refused(error) => write!(f, "Refused({error})"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// A method that is a single answer has been given it.
    Answered,
    /// `caching_sha2_password` has been given its proof.
    Proven,
    /// The server's RSA key has been asked for.
    KeyRequested,
    /// The password itself has been sent.
    PasswordSent,
}

/// A client that logs in. What it may reveal depends on `secure`: the password itself only goes into TLS, or into RSA if the server's
/// key may be taken on trust.
pub struct ClientAuth {
    user: String,
    password: Vec<u8>,
    secure: bool,
    allow_public_key_retrieval: bool,
    nonce: [u8; NONCE_LEN],
    state: State,
    switches: u8,
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientAuth")
            .field("user", &self.user)
            .field("secure", &self.secure)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

impl ClientAuth {
    /// A login of `user`. `secure`: the connection is inside TLS (or a local socket). `allow_public_key_retrieval`: outside TLS, an
    /// RSA key sent by the server may be used for the password, though somebody in between could have replaced it.
    pub fn new(user: &str, password: &[u8], secure: bool, allow_public_key_retrieval: bool) -> Self {
        Self {
            user: user.to_owned(),
            password: password.to_vec(),
            secure,
            allow_public_key_retrieval,
            nonce: [0; NONCE_LEN],
            state: State::Answered,
            switches: 0,
        }
    }

    /// Method and authentication bytes for the handshake response. If the greeting names a method that is not known here, the native
    /// one is answered, and the server asks for a switch if the account wants another.
    pub fn first_response(&mut self, greeting: &Greeting) -> (&'static str, Vec<u8>) {
        self.nonce = greeting.scramble;
        if greeting.auth_plugin == CACHING_SHA2_PASSWORD {
            self.state = State::Proven;
            return (CACHING_SHA2_PASSWORD, caching_sha2::scramble_fast(&self.password, &self.nonce));
        }
        self.state = State::Answered;
        (NATIVE_PASSWORD, native::scramble(&self.password, &self.nonce))
    }

    /// Takes a payload that the server sent after the handshake response.
    ///
    /// # Errors
    /// A message out of place, a method that is not supported (named), or one that would reveal the password.
    pub fn on_packet(&mut self, payload: &[u8]) -> Result<ClientAuthStep> {
        match payload {
            [0x00, ..] => Ok(ClientAuthStep::Done),
            [0xff, ..] => ErrPacket::parse(payload).map(ClientAuthStep::Refused),
            [0xfe, ..] => self.on_switch(&AuthSwitch::parse(payload)?),
            [caching_sha2::MORE_DATA, data @ ..] => self.on_more_data(data),
            _ => Err(self.error(format!("unexpected answer of {} bytes", payload.len()))),
        }
    }

    fn on_switch(&mut self, switch: &AuthSwitch) -> Result<ClientAuthStep> {
        self.switches += 1;
        if self.switches > MAX_SWITCHES {
            return Err(self.error(format!("the server asked for more than {MAX_SWITCHES} methods")));
        }
        match switch.plugin.as_str() {
            NATIVE_PASSWORD => {
                self.nonce = switch.nonce()?;
                self.state = State::Answered;
                Ok(ClientAuthStep::Send(native::scramble(&self.password, &self.nonce)))
            }
            CACHING_SHA2_PASSWORD => {
                self.nonce = switch.nonce()?;
                self.state = State::Proven;
                Ok(ClientAuthStep::Send(caching_sha2::scramble_fast(&self.password, &self.nonce)))
            }
            CLEAR_PASSWORD if self.secure => {
                self.state = State::Answered;
                Ok(ClientAuthStep::Send(self.password_and_nul()))
            }
            CLEAR_PASSWORD => {
                Err(self.error(format!("the server asks for {CLEAR_PASSWORD}, which is only given inside TLS")))
            }
            other => Err(self.error(format!(
                "the server asks for the method {other}, which is not supported: \
                 give the account {NATIVE_PASSWORD} or {CACHING_SHA2_PASSWORD}"
            ))),
        }
    }

    fn on_more_data(&mut self, data: &[u8]) -> Result<ClientAuthStep> {
        match (self.state, data) {
            (State::Proven, [caching_sha2::FAST_AUTH_SUCCESS]) => Ok(ClientAuthStep::Wait),
            (State::Proven, [caching_sha2::PERFORM_FULL_AUTH]) if self.secure => {
                self.state = State::PasswordSent;
                Ok(ClientAuthStep::Send(self.password_and_nul()))
            }
            (State::Proven, [caching_sha2::PERFORM_FULL_AUTH]) if self.allow_public_key_retrieval => {
                self.state = State::KeyRequested;
                Ok(ClientAuthStep::Send(vec![caching_sha2::REQUEST_PUBLIC_KEY]))
            }
            (State::Proven, [caching_sha2::PERFORM_FULL_AUTH]) => Err(self.error(
                "the server wants the password itself: connect with TLS, or allow its public key to be retrieved"
                    .into(),
            )),
            (State::KeyRequested, pem) => {
                let pem = std::str::from_utf8(pem).map_err(|_| self.error("the server's RSA key is not PEM".into()))?;
                let encrypted = encrypt_password(&self.password, &self.nonce, pem)?;
                self.state = State::PasswordSent;
                Ok(ClientAuthStep::Send(encrypted))
            }
            (state, data) => {
                let shown = &data[..data.len().min(4)];
                Err(self.error(format!("unexpected data {shown:02x?} in state {state:?}")))
            }
        }
    }

    fn password_and_nul(&self) -> Vec<u8> {
        [&self.password[..], &[0]].concat()
    }

    fn error(&self, detail: String) -> WireError {
        WireError::invalid(WHAT, format!("user '{}': {detail}", self.user))
    }
}
