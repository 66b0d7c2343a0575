use super::*;
use proptest::prelude::*;

fn response(capabilities: u32) -> HandshakeResponse {
    HandshakeResponse {
        capabilities,
        max_packet: 1 << 24,
        charset: 8,
        user: "repl".into(),
        auth: vec![7; 20],
        database: has(capabilities, CLIENT_CONNECT_WITH_DB).then(|| "shop".into()),
        auth_plugin: has(capabilities, CLIENT_PLUGIN_AUTH).then(|| NATIVE_PASSWORD.into()),
        attributes: if has(capabilities, CLIENT_CONNECT_ATTRS) {
            vec![("_os".into(), "Linux".into()), ("program_name".into(), "x".repeat(300))]
        } else {
            Vec::new()
        },
        extended: if has(capabilities, CLIENT_LONG_PASSWORD) { 0 } else { 0x1d },
        zstd_level: has(capabilities, CLIENT_ZSTD_COMPRESSION).then_some(3),
    }
}

#[test]
fn an_ssl_request_is_told_from_a_login() {
    let request = SslRequest { capabilities: 0x8038_aa05, max_packet: 0x4000_037b, charset: 8, extended: 0 };
    let bytes = request.encode();
    assert_eq!(bytes.len(), 32);
    assert_eq!(ClientFirst::parse(&bytes).unwrap(), ClientFirst::Ssl(request));
    let login = response(0x8038_aa05);
    assert_eq!(ClientFirst::parse(&login.encode().unwrap()).unwrap(), ClientFirst::Response(login));
}

#[test]
fn thirty_two_bytes_without_the_tls_flag_are_refused() {
    let request = SslRequest { capabilities: 0x8038_a205, max_packet: 0, charset: 8, extended: 0 };
    assert!(ClientFirst::parse(&request.encode()).is_err());
}

#[test]
fn a_client_older_than_4_1_is_refused_by_name() {
    let mut old = response(0x8038_a205 & !CLIENT_PROTOCOL_41).encode().unwrap();
    let error = ClientFirst::parse(&old).unwrap_err().to_string();
    assert!(error.contains("0x8038a005 lack the protocol of version 4.1"), "{error}");
    old.truncate(3);
    assert!(ClientFirst::parse(&old).is_err());
}

#[test]
fn a_missing_nul_at_the_end_is_forgiven() {
    let login = response(CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION | CLIENT_PLUGIN_AUTH);
    let mut bytes = login.encode().unwrap();
    assert_eq!(bytes.pop(), Some(0));
    assert_eq!(HandshakeResponse::parse(&bytes).unwrap(), login);
}

#[test]
fn debug_shows_no_authentication_bytes() {
    let shown = format!("{:?}", HandshakeResponse { auth: b"secretsecret".to_vec(), ..response(0x8038_a205) });
    assert!(shown.contains("<12 bytes>") && !shown.contains("115"), "{shown}");
}

#[test]
fn an_error_takes_the_place_of_the_greeting() {
    let refused = ServerFirst::parse(b"\xff\x10\x04Too many connections").unwrap();
    assert!(matches!(refused, ServerFirst::Refused(e) if e.code == 1040));
}

#[test]
fn authentication_bytes_that_do_not_fit_are_an_error() {
    let login = HandshakeResponse { auth: vec![1; 256], ..response(CLIENT_PROTOCOL_41 | CLIENT_SECURE_CONNECTION) };
    assert!(login.encode().is_err());
}

proptest! {
    #[test]
    fn logins_read_back_under_any_capabilities(capabilities in any::<u32>()) {
        let login = response(capabilities | CLIENT_PROTOCOL_41);
        prop_assert_eq!(HandshakeResponse::parse(&login.encode().unwrap()).unwrap(), login);
    }

    #[test]
    fn greetings_read_back(
        version in "[ -~]{0,40}",
        connection_id in any::<u32>(),
        scramble in any::<[u8; NONCE_LEN]>(),
        capabilities in any::<u32>(),
        extended in any::<u32>(),
        plugin in "[a-z_]{1,30}",
    ) {
        let capabilities = capabilities | CLIENT_PROTOCOL_41;
        let extended = if has(capabilities, CLIENT_LONG_PASSWORD) { 0 } else { extended };
        let auth_plugin = if has(capabilities, CLIENT_PLUGIN_AUTH) { plugin } else { NATIVE_PASSWORD.into() };
        let (charset, status) = (45, 2);
        let greeting =
            Greeting { version, connection_id, scramble, capabilities, extended, charset, status, auth_plugin };
        prop_assert_eq!(Greeting::parse(&greeting.encode()).unwrap(), greeting);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ServerFirst::parse(&bytes);
        let _ = ClientFirst::parse(&bytes);
        let _ = SslRequest::parse(&bytes);
        let mut bytes = bytes;
        if let Some(protocol) = bytes.get_mut(1) {
            *protocol |= 2; // CLIENT_PROTOCOL_41: past the first refusal
        }
        let _ = HandshakeResponse::parse(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = 10;
        }
        let _ = Greeting::parse(&bytes);
    }
}
