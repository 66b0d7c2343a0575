use super::*;
use proptest::prelude::*;

#[test]
fn a_query_of_mysql_begins_with_its_attributes() {
    let payload = b"\x03\x00\x01SELECT 1";
    assert_eq!(Command::parse(payload, CLIENT_QUERY_ATTRIBUTES).unwrap(), Command::Query("SELECT 1".into()));
    assert_eq!(Command::parse(b"\x03SELECT 1", 0).unwrap(), Command::Query("SELECT 1".into()));
}

#[test]
fn attributes_of_every_kind_are_skipped() {
    // Four parameters: NULL by bitmap, a string, a LONGLONG, a DATETIME of 4 bytes.
    let mut payload = vec![0x03, 4, 1, 0b0001, 1];
    for (kind, name) in [(0xfdu16, "a"), (0xfd, "bb"), (0x08, ""), (0x0c, "d")] {
        payload.extend_from_slice(&kind.to_le_bytes());
        put::lenenc_bytes(&mut payload, name.as_bytes());
    }
    put::lenenc_bytes(&mut payload, b"value");
    payload.extend_from_slice(&[9; 8]);
    payload.extend_from_slice(&[4, 1, 2, 3, 4]);
    payload.extend_from_slice(b"PING");
    assert_eq!(Command::parse(&payload, CLIENT_QUERY_ATTRIBUTES).unwrap(), Command::Query("PING".into()));
    payload.truncate(20);
    assert!(Command::parse(&payload, CLIENT_QUERY_ATTRIBUTES).is_err());
}

#[test]
fn a_command_that_is_not_served_is_known_by_its_byte() {
    assert_eq!(Command::parse(&[0x16, 1, 2], 0).unwrap(), Command::Unknown(0x16));
    assert!(Command::parse(&[], 0).is_err());
}

#[test]
fn a_gtid_set_longer_than_the_packet_is_an_error() {
    let mut payload = BinlogDumpGtid { set: vec![0; 8], ..Default::default() }.encode().unwrap();
    payload.pop();
    assert!(BinlogDumpGtid::parse(&payload).is_err());
}

#[test]
fn a_registered_password_is_not_shown() {
    let command = RegisterSlave { password: "hunter2".into(), ..Default::default() };
    assert!(!format!("{:?}", Command::RegisterSlave(command)).contains("hunter2"));
}

#[test]
fn a_host_that_does_not_fit_is_an_error_that_names_it() {
    let command = RegisterSlave { host: "h".repeat(256), ..Default::default() };
    assert!(command.encode().unwrap_err().to_string().contains("the host has 256 bytes"));
}

fn any_command() -> impl Strategy<Value = Command> {
    let text = "[ -~]{0,40}";
    prop_oneof![
        Just(Command::Quit),
        Just(Command::Statistics),
        Just(Command::Ping),
        Just(Command::ResetConnection),
        any::<u32>().prop_map(Command::ProcessKill),
        any::<u16>().prop_map(Command::SetOption),
        text.prop_map(Command::InitDb),
        text.prop_map(Command::Query),
        (any::<u32>(), text, text, text, any::<u16>(), any::<u32>(), any::<u32>()).prop_map(
            |(server_id, host, user, password, port, rank, master_id)| Command::RegisterSlave(RegisterSlave {
                server_id,
                host,
                user,
                password,
                port,
                rank,
                master_id
            })
        ),
        (any::<u32>(), any::<u16>(), any::<u32>(), text).prop_map(|(position, flags, server_id, file)| {
            Command::BinlogDump(BinlogDump { position, flags, server_id, file })
        }),
        (any::<u16>(), any::<u32>(), text, any::<u64>(), prop::collection::vec(any::<u8>(), 0..60)).prop_map(
            |(flags, server_id, file, position, set)| {
                Command::BinlogDumpGtid(BinlogDumpGtid { flags, server_id, file, position, set })
            }
        ),
    ]
}

proptest! {
    #[test]
    fn commands_read_back(command in any_command(), attributes in any::<bool>()) {
        let capabilities = if attributes { CLIENT_QUERY_ATTRIBUTES } else { 0 };
        let payload = command.encode(capabilities).unwrap();
        prop_assert_eq!(Command::parse(&payload, capabilities).unwrap(), command);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), capabilities in any::<u32>()) {
        let _ = Command::parse(&bytes, capabilities);
        for command in [COM_QUERY, COM_REGISTER_SLAVE, COM_BINLOG_DUMP, COM_BINLOG_DUMP_GTID] {
            let _ = Command::parse(&[&[command][..], &bytes].concat(), CLIENT_QUERY_ATTRIBUTES);
        }
    }
}
