//! Both sides of a login against a peer that says anything: nobody gets in without the password, and it is not given away.

use std::sync::LazyLock;

use baton_wire::auth::{
    CACHING_SHA2_PASSWORD, CLEAR_PASSWORD, ClientAuth, ClientAuthStep, NATIVE_PASSWORD, ServerAuth, ServerAuthStep,
    ServerKey, StoredPassword, caching_sha2, native,
};
use baton_wire::capabilities::{CLIENT_PLUGIN_AUTH, CLIENT_PROTOCOL_41};
use baton_wire::handshake::{Greeting, HandshakeResponse, NONCE_LEN};

use super::input::Input;

/// The nonce of all logins here.
pub const NONCE: [u8; NONCE_LEN] = *b"abcdefghij0123456789";
/// The password of all logins here.
pub const PASSWORD: &[u8] = b"correct horse";

/// A switch, the full exchange, the key to send, its sending, the key to decrypt, the verdict.
const MAX_STEPS: usize = 6;

static KEY: LazyLock<ServerKey> = LazyLock::new(|| ServerKey::generate().expect("makes a key"));
static STORED: LazyLock<StoredPassword> = LazyLock::new(|| StoredPassword::new(PASSWORD));
static STORED_EMPTY: LazyLock<StoredPassword> = LazyLock::new(|| StoredPassword::new(b""));

fn plugin_name(choice: u8) -> &'static str {
    [NATIVE_PASSWORD, CACHING_SHA2_PASSWORD, CLEAR_PASSWORD, "client_ed25519"][usize::from(choice % 4)]
}

/// Input: options, method of the greeting and of the response, the client's payloads as chunks. Only a right answer logs in, and
/// every login comes to its end. It also ends where a key is needed: making one takes too long under a sanitizer.
pub fn server_auth(data: &[u8]) {
    server_login(data, None);
}

/// The same, with a key.
pub fn server_auth_with_key(data: &[u8]) {
    server_login(data, Some(&KEY));
}

fn server_login(data: &[u8], key: Option<&ServerKey>) {
    let mut input = Input(data);
    let options = input.byte();
    let (known, empty, secure, can_switch) = (options & 1 != 0, options & 2 != 0, options & 4 != 0, options & 8 != 0);
    let default_plugin = plugin_name(input.byte() % 2);
    let plugin = input.byte();
    let auth = input.chunk().unwrap_or_default().to_vec();
    let response = HandshakeResponse {
        capabilities: CLIENT_PROTOCOL_41 | if can_switch { CLIENT_PLUGIN_AUTH } else { 0 },
        max_packet: 1 << 24,
        charset: 8,
        user: "repl".into(),
        auth: auth.clone(),
        database: None,
        auth_plugin: (plugin & 0x80 == 0).then(|| plugin_name(plugin).to_owned()),
        attributes: Vec::new(),
        extended: 0,
        zstd_level: None,
    };
    let stored = known.then_some(if empty { &*STORED_EMPTY } else { &*STORED });
    let mut server = ServerAuth::new(default_plugin, NONCE, secure);
    let mut last = auth;
    let mut step = server.on_response(&response, stored);
    for _ in 0..MAX_STEPS {
        step = match step {
            ServerAuthStep::Send(payload) => {
                assert!(!payload.is_empty());
                let Some(payload) = input.chunk() else { return };
                last = payload.to_vec();
                server.on_packet(payload)
            }
            ServerAuthStep::NeedKey => match key {
                Some(key) => server.on_key(key),
                None => return,
            },
            ServerAuthStep::Accept { .. } => {
                assert!(known, "somebody unknown got in");
                assert!(proves(&last, empty, secure, key), "{last:02x?} is no answer to log in with");
                assert_eq!(server.on_packet(&last), ServerAuthStep::Deny);
                return;
            }
            ServerAuthStep::Deny => {
                assert_eq!(server.on_packet(&last), ServerAuthStep::Deny);
                return;
            }
        };
    }
    panic!("the login has no end: {step:?}");
}

/// Whether `answer` is one of those that a client with the password gives, with whatever method.
fn proves(answer: &[u8], empty: bool, secure: bool, key: Option<&ServerKey>) -> bool {
    let password = if empty { &[][..] } else { PASSWORD };
    let proof = match empty {
        true => matches!(answer, [] | [0]),
        false => {
            answer == native::scramble(password, &NONCE) || answer == caching_sha2::scramble_fast(password, &NONCE)
        }
    };
    let in_tls = secure && answer.strip_suffix(&[0]).unwrap_or(answer) == password;
    proof
        || in_tls
        || key.is_some_and(|key| key.decrypt_password(answer, &NONCE).is_ok_and(|opened| opened == password))
}

/// Input: options, method of the greeting, the server's payloads as chunks. The password leaves only inside TLS, and no server keeps
/// a client answering for ever.
pub fn client_auth(data: &[u8]) {
    let mut input = Input(data);
    let options = input.byte();
    let (secure, allow_key) = (options & 1 != 0, options & 2 != 0);
    let greeting = Greeting {
        version: "8.4.0".into(),
        connection_id: 1,
        scramble: NONCE,
        capabilities: CLIENT_PROTOCOL_41 | CLIENT_PLUGIN_AUTH,
        extended: 0,
        charset: 8,
        status: 2,
        auth_plugin: plugin_name(input.byte()).to_owned(),
    };
    let mut client = ClientAuth::new("repl", PASSWORD, secure, allow_key);
    let (_, first) = client.first_response(&greeting);
    assert_ne!(first, PASSWORD);
    let mut sent = 0;
    while let Some(payload) = input.chunk() {
        match client.on_packet(payload) {
            Ok(ClientAuthStep::Send(answer)) => {
                sent += 1;
                // Eight switches, each with a question for the key and the password.
                assert!(sent <= 3 * (8 + 1), "the client answers for ever");
                let shows = answer.windows(PASSWORD.len()).any(|part| part == PASSWORD);
                assert!(secure || !shows, "the password is given away");
                assert!(!shows || payload == [1, 4] || payload.starts_with(b"\xfemysql_clear_password\0"));
            }
            Ok(ClientAuthStep::Wait) => assert_eq!(payload, [1, 3]),
            Ok(ClientAuthStep::Done) => {
                assert_eq!(payload[0], 0);
                return;
            }
            Ok(ClientAuthStep::Refused(error)) => {
                assert_eq!(payload[0], 0xff);
                assert!(!error.to_string().is_empty());
                return;
            }
            Err(error) => {
                assert!(!error.to_string().contains("correct horse") || contains(payload, PASSWORD));
                return;
            }
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
