//! Both sides of a login against each other, and each against what misbehaving peers send.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;
use crate::capabilities::{
    CLIENT_PLUGIN_AUTH, CLIENT_PLUGIN_AUTH_LENENC, CLIENT_PROTOCOL_41, CLIENT_SECURE_CONNECTION,
};
use crate::handshake::{Greeting, HandshakeResponse};
use crate::response::{ErrPacket, OkPacket};

const CAPABILITIES: u32 =
    CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH | CLIENT_PLUGIN_AUTH_LENENC;

fn key() -> &'static ServerKey {
    static KEY: OnceLock<ServerKey> = OnceLock::new();
    KEY.get_or_init(|| ServerKey::generate().unwrap())
}

fn greeting(plugin: &str) -> Greeting {
    Greeting {
        version: "5.5.5-10.11.19-MariaDB-log".into(),
        connection_id: 7,
        scramble: *b"abcdefghij0123456789",
        capabilities: CAPABILITIES,
        extended: 0,
        charset: 8,
        status: 2,
        auth_plugin: plugin.into(),
    }
}

fn response(plugin: &str, auth: Vec<u8>) -> HandshakeResponse {
    HandshakeResponse {
        capabilities: CAPABILITIES,
        max_packet: 1 << 24,
        charset: 8,
        user: "repl".into(),
        auth,
        database: None,
        auth_plugin: Some(plugin.into()),
        attributes: Vec::new(),
        extended: 0,
        zstd_level: None,
    }
}

fn server(default_plugin: &str, secure: bool) -> ServerAuth {
    ServerAuth::new(default_plugin, greeting(default_plugin).scramble, secure)
}

/// Lets `client` answer `server` until one of them ends; gives the client's end and the payloads of the server.
fn talk(
    client: &mut ClientAuth,
    server: &mut ServerAuth,
    mut step: ServerAuthStep,
) -> (Result<ClientAuthStep>, Vec<Vec<u8>>) {
    let mut sent = Vec::new();
    let ok = OkPacket::with_status(2).encode(0);
    loop {
        let (payloads, last) = match step {
            ServerAuthStep::Send(payload) => (vec![payload], false),
            ServerAuthStep::NeedKey => {
                step = server.on_key(key());
                continue;
            }
            ServerAuthStep::Accept { send } => (send.into_iter().chain([ok.clone()]).collect(), true),
            ServerAuthStep::Deny => (vec![ErrPacket::access_denied("repl", "h", true).encode()], true),
        };
        let mut answer = Ok(ClientAuthStep::Wait);
        for payload in payloads {
            sent.push(payload.clone());
            answer = client.on_packet(&payload);
        }
        match answer {
            Ok(ClientAuthStep::Send(reply)) if !last => step = server.on_packet(&reply),
            other => return (other, sent),
        }
    }
}

fn login(plugin: &str, given: &[u8], stored: Option<&[u8]>, secure: bool) -> Result<ClientAuthStep> {
    let (mut client, mut server) = (ClientAuth::new("repl", given, secure, true), server(plugin, secure));
    let (name, auth) = client.first_response(&greeting(plugin));
    let stored = stored.map(StoredPassword::new);
    let step = server.on_response(&response(name, auth), stored.as_ref());
    talk(&mut client, &mut server, step).0
}

fn is_denied(answer: &Result<ClientAuthStep>) -> bool {
    matches!(answer, Ok(ClientAuthStep::Refused(error)) if error.code == 1045)
}

#[test]
fn the_right_password_is_accepted_and_every_other_denied_by_both_methods() {
    for plugin in [NATIVE_PASSWORD, CACHING_SHA2_PASSWORD] {
        for secure in [false, true] {
            assert_eq!(login(plugin, b"replpw", Some(b"replpw"), secure), Ok(ClientAuthStep::Done), "{plugin}");
            assert_eq!(login(plugin, b"", Some(b""), secure), Ok(ClientAuthStep::Done), "{plugin}, empty");
            assert!(is_denied(&login(plugin, b"wrong", Some(b"replpw"), secure)), "{plugin}");
            assert!(is_denied(&login(plugin, b"", Some(b"replpw"), secure)), "{plugin}, none given");
            assert!(is_denied(&login(plugin, b"replpw", Some(b""), secure)), "{plugin}, none wanted");
        }
    }
}

#[test]
fn an_unknown_user_is_denied_even_with_the_password_that_stands_in() {
    for given in [&b"replpw"[..], b"", b"nobody has this password"] {
        assert!(is_denied(&login(NATIVE_PASSWORD, given, None, false)));
        assert!(is_denied(&login(CACHING_SHA2_PASSWORD, given, None, false)));
    }
}

#[test]
fn an_unknown_user_sees_the_same_steps_as_a_known_one() {
    let answers = [
        (NATIVE_PASSWORD, vec![]),
        (NATIVE_PASSWORD, vec![1; 20]),
        (CACHING_SHA2_PASSWORD, vec![]),
        (CACHING_SHA2_PASSWORD, vec![1; 32]),
        (CACHING_SHA2_PASSWORD, vec![1; 5]),
        ("client_ed25519", vec![1; 64]),
    ];
    for default_plugin in [NATIVE_PASSWORD, CACHING_SHA2_PASSWORD] {
        for (plugin, auth) in &answers {
            let (mut known, mut unknown) = (server(default_plugin, true), server(default_plugin, true));
            let stored = StoredPassword::new(b"replpw");
            let response = response(plugin, auth.clone());
            assert_eq!(known.on_response(&response, Some(&stored)), unknown.on_response(&response, None));
            for payload in [&[2u8; 32][..], &[1; 20]] {
                assert_eq!(known.on_packet(payload), unknown.on_packet(payload));
            }
        }
    }
}

#[test]
fn a_mariadb_replica_that_lacks_sha2_is_asked_for_the_native_method() {
    let mut server = server(CACHING_SHA2_PASSWORD, false);
    let stored = StoredPassword::new(b"replpw");
    let step = server.on_response(&response(NATIVE_PASSWORD, Vec::new()), Some(&stored));
    let mut client = ClientAuth::new("repl", b"replpw", false, false);
    let (answer, sent) = talk(&mut client, &mut server, step);
    assert_eq!(answer, Ok(ClientAuthStep::Done));
    assert!(sent[0].starts_with(b"\xfemysql_native_password\0abcdefghij0123456789\0"));
}

#[test]
fn a_client_of_another_method_is_asked_for_the_native_one() {
    let mut server = server(NATIVE_PASSWORD, false);
    let stored = StoredPassword::new(b"replpw");
    let step = server.on_response(&response("client_ed25519", vec![9; 64]), Some(&stored));
    let mut client = ClientAuth::new("repl", b"replpw", false, false);
    assert_eq!(talk(&mut client, &mut server, step).0, Ok(ClientAuthStep::Done));
}

#[test]
fn a_client_that_cannot_switch_is_denied() {
    let mut server = server(NATIVE_PASSWORD, false);
    let old = HandshakeResponse {
        capabilities: CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION,
        ..response("client_ed25519", vec![9; 64])
    };
    assert_eq!(server.on_response(&old, Some(&StoredPassword::new(b"replpw"))), ServerAuthStep::Deny);
}

/// A client that has only the password, no proof: the server asks for all of it.
fn full_exchange(secure: bool, given: &[u8]) -> (Result<ClientAuthStep>, Vec<Vec<u8>>) {
    let (mut client, mut server) =
        (ClientAuth::new("repl", given, secure, true), server(CACHING_SHA2_PASSWORD, secure));
    client.first_response(&greeting(CACHING_SHA2_PASSWORD));
    let step = server.on_response(&response(CACHING_SHA2_PASSWORD, vec![1, 2]), Some(&StoredPassword::new(b"replpw")));
    assert_eq!(step, ServerAuthStep::Send(vec![1, 4]));
    talk(&mut client, &mut server, step)
}

#[test]
fn the_full_exchange_takes_the_password_inside_tls() {
    assert_eq!(full_exchange(true, b"replpw"), (Ok(ClientAuthStep::Done), vec![vec![1, 4], vec![0, 0, 0, 2, 0, 0, 0]]));
    assert!(is_denied(&full_exchange(true, b"replpv").0));
}

#[test]
fn the_full_exchange_takes_the_password_under_rsa_without_tls() {
    let (answer, sent) = full_exchange(false, b"replpw");
    assert_eq!(answer, Ok(ClientAuthStep::Done));
    assert!(sent[1].starts_with(b"\x01-----BEGIN PUBLIC KEY-----\n"));
    assert_eq!(sent[1].len(), 452, "what servers send for a key of 2048 bits, with its leading 01");
    assert!(is_denied(&full_exchange(false, b"wrong").0));
}

#[test]
fn an_encrypted_password_is_of_no_use_under_another_nonce() {
    let nonce = *b"abcdefghij0123456789";
    let encrypted = rsa_key::encrypt_password(b"replpw", &nonce, key().public_pem()).unwrap();
    assert_eq!(encrypted.len(), 256);
    assert_eq!(key().decrypt_password(&encrypted, &nonce).unwrap(), b"replpw");
    assert!(key().decrypt_password(&encrypted, b"zbcdefghij0123456789").is_ok_and(|p| p != b"replpw"));
    assert!(key().decrypt_password(&encrypted[1..], &nonce).is_err());
    assert!(key().decrypt_password(&[0; 256], &nonce).is_err());
}

#[test]
fn a_password_encrypted_by_another_implementation_is_read() {
    let nonce = *b"abcdefghij0123456789";
    let masked = caching_sha2::mask(b"replpw\0", &nonce);
    let encrypted = mysql_common::crypto::encrypt(&masked, key().public_pem().as_bytes());
    assert_eq!(key().decrypt_password(&encrypted, &nonce).unwrap(), b"replpw");
}

#[test]
fn a_password_too_long_for_rsa_is_an_error_not_a_truncation() {
    let nonce = *b"abcdefghij0123456789";
    assert!(rsa_key::encrypt_password(&[b'x'; 213], &nonce, key().public_pem()).is_ok());
    assert!(rsa_key::encrypt_password(&[b'x'; 214], &nonce, key().public_pem()).is_err());
    assert!(rsa_key::encrypt_password(b"x", &nonce, "no key").is_err());
}

#[test]
fn the_password_is_not_given_away_outside_of_tls() {
    let clear = AuthSwitch { plugin: CLEAR_PASSWORD.into(), data: Vec::new() }.encode();
    let mut open = ClientAuth::new("repl", b"replpw", false, false);
    open.first_response(&greeting(CACHING_SHA2_PASSWORD));
    let error = open.on_packet(&[1, 4]).unwrap_err().to_string();
    assert!(error.contains("connect with TLS") && !error.contains("replpw"), "{error}");
    let error = open.on_packet(&clear).unwrap_err().to_string();
    assert!(error.contains("only given inside TLS") && !error.contains("replpw"), "{error}");
    let mut inside = ClientAuth::new("repl", b"replpw", true, false);
    assert_eq!(inside.on_packet(&clear), Ok(ClientAuthStep::Send(b"replpw\0".to_vec())));
}

#[test]
fn messages_out_of_place_are_errors() {
    let mut native = ClientAuth::new("repl", b"replpw", true, true);
    native.first_response(&greeting(NATIVE_PASSWORD));
    assert!(native.on_packet(&[1, 4]).is_err(), "full exchange of a method that was not chosen");
    assert!(native.on_packet(&[1, 3]).is_err());
    assert!(native.on_packet(&[]).is_err());
    let mut sha2 = ClientAuth::new("repl", b"replpw", true, true);
    sha2.first_response(&greeting(CACHING_SHA2_PASSWORD));
    assert_eq!(sha2.on_packet(&[1, 4]), Ok(ClientAuthStep::Send(b"replpw\0".to_vec())));
    assert!(sha2.on_packet(&[1, 4]).is_err(), "the password is given once");
}

#[test]
fn a_method_that_is_not_supported_is_named() {
    let switch = AuthSwitch { plugin: "client_ed25519".into(), data: vec![1; 32] }.encode();
    let error = ClientAuth::new("repl", b"replpw", false, false).on_packet(&switch).unwrap_err().to_string();
    assert!(error.contains("'repl'") && error.contains("client_ed25519"), "{error}");
}

#[test]
fn a_server_that_switches_for_ever_is_left() {
    let switch = AuthSwitch { plugin: NATIVE_PASSWORD.into(), data: vec![1; 20] }.encode();
    let mut client = ClientAuth::new("repl", b"replpw", false, false);
    assert!((0..20).any(|_| client.on_packet(&switch).is_err()));
}

#[test]
fn a_verdict_is_final() {
    let mut server = server(NATIVE_PASSWORD, false);
    let stored = StoredPassword::new(b"replpw");
    assert_eq!(server.on_response(&response(NATIVE_PASSWORD, vec![0; 20]), Some(&stored)), ServerAuthStep::Deny);
    let right = native::scramble(b"replpw", &greeting(NATIVE_PASSWORD).scramble);
    assert_eq!(server.on_packet(&right), ServerAuthStep::Deny);
    assert_eq!(server.on_key(key()), ServerAuthStep::Deny);
}

#[test]
fn debug_shows_neither_password_nor_key() {
    let mut client = ClientAuth::new("repl", b"replpw", true, false);
    let shown = format!("{client:?} {:?} {:?}", key(), client.on_packet(b"\xfemysql_clear_password\0"));
    assert!(!shown.contains("replpw") && !shown.contains("114, 101"), "{shown}");
}

proptest! {
    #[test]
    fn random_payloads_never_panic_and_never_log_in(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6),
        first in prop::collection::vec(any::<u8>(), 0..40),
        secure in any::<bool>(),
        plugin in prop::sample::select(vec![NATIVE_PASSWORD, CACHING_SHA2_PASSWORD, "other"]),
    ) {
        let mut server = server(CACHING_SHA2_PASSWORD, secure);
        let mut client = ClientAuth::new("repl", b"replpw", secure, true);
        let stored = StoredPassword::new(b"replpw");
        let mut steps = vec![server.on_response(&response(plugin, first), Some(&stored))];
        for payload in &payloads {
            let _ = client.on_packet(payload);
            let _ = client.on_packet(&[&[1][..], payload].concat());
            steps.push(server.on_packet(payload));
        }
        let accepted = steps.iter().any(|step| matches!(step, ServerAuthStep::Accept { .. }));
        prop_assert!(!accepted);
    }
}
