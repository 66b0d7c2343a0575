use super::*;
use proptest::prelude::*;

#[test]
fn the_plain_ok_is_the_seven_bytes_that_servers_send() {
    for capabilities in [0, CLIENT_SESSION_TRACK] {
        let bytes = OkPacket::with_status(STATUS_AUTOCOMMIT).encode(capabilities);
        assert_eq!(bytes, [0, 0, 0, 2, 0, 0, 0]);
    }
    let end = OkPacket::with_status(STATUS_AUTOCOMMIT).encode_end_of_rows(0);
    assert_eq!(end, [0xfe, 0, 0, 2, 0, 0, 0]);
    assert_eq!(EofPacket { warnings: 0, status: 2 }.encode(), [0xfe, 0, 0, 2, 0]);
}

#[test]
fn an_error_carries_its_usual_sql_state() {
    let error = ErrPacket::access_denied("repl", "10.0.0.7", true);
    assert!(error.encode().starts_with(b"\xff\x15\x04#28000Access denied for user 'repl'@'10.0.0.7'"));
    assert_eq!(ErrPacket::fatal_reading_binlog("x").encode(), b"\xff\xd4\x04#HY000x");
    assert_eq!(ErrPacket::replica_with_same_id().encode()[..3], [0xff, 0xd4, 0x0f]);
}

#[test]
fn an_error_in_place_of_a_greeting_has_no_sql_state() {
    let bytes = ErrPacket::too_many_connections().encode_in_place_of_greeting();
    assert_eq!(bytes, b"\xff\x10\x04Too many connections");
    let read = ErrPacket::parse(&bytes).unwrap();
    assert_eq!((read.code, &read.sql_state, read.message.as_str()), (1040, b"HY000", "Too many connections"));
}

#[test]
fn a_row_that_begins_with_fe_is_not_taken_for_an_end() {
    assert!(!EofPacket::is(&[0xfe, 0, 0, 0, 1, 0, 0, 0, 0, 42]));
    assert!(EofPacket::parse(&[0xfe, 0]).is_err());
}

proptest! {
    #[test]
    fn ok_packets_read_back(
        affected_rows in any::<u64>(),
        last_insert_id in any::<u64>(),
        status in any::<u16>(),
        warnings in any::<u16>(),
        info in ".{0,30}",
        state in prop::collection::vec(any::<u8>(), 0..20),
        track in any::<bool>(),
    ) {
        let capabilities = if track { CLIENT_SESSION_TRACK } else { 0 };
        let carries_state = track && status & STATUS_SESSION_STATE_CHANGED != 0;
        let session_state = if carries_state { state } else { Vec::new() };
        let ok = OkPacket { affected_rows, last_insert_id, status, warnings, info, session_state };
        prop_assert_eq!(&OkPacket::parse(&ok.encode(capabilities), capabilities).unwrap(), &ok);
        prop_assert_eq!(OkPacket::parse(&ok.encode_end_of_rows(capabilities), capabilities).unwrap(), ok);
    }

    #[test]
    fn err_packets_read_back(code in any::<u16>(), message in ".{0,60}") {
        let error = ErrPacket::new(code, message);
        prop_assert_eq!(ErrPacket::parse(&error.encode()).unwrap(), error);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), capabilities in any::<u32>()) {
        let _ = OkPacket::parse(&bytes, capabilities);
        let _ = ErrPacket::parse(&bytes);
        let _ = EofPacket::parse(&bytes);
    }
}
