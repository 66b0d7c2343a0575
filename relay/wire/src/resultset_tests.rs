use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::packet::PacketDecoder;
use crate::response::{STATUS_AUTOCOMMIT, code};

fn read(bytes: &[u8], mut reader: ResultReader) -> Result<ReadStep> {
    let mut buf = BytesMut::from(bytes);
    let mut decoder = PacketDecoder::new(usize::MAX);
    while let Some(packet) = decoder.decode(&mut buf)? {
        match reader.on_packet(&packet.payload)? {
            ReadStep::More => {}
            step => {
                assert!(buf.is_empty(), "the last packet ends the answer");
                return Ok(step);
            }
        }
    }
    Ok(ReadStep::More)
}

fn encoded(result: &TextResult, capabilities: u32) -> Vec<u8> {
    let mut out = Vec::new();
    result.encode(&mut out, &mut 1, capabilities, STATUS_AUTOCOMMIT);
    out
}

fn two_columns() -> TextResult {
    let mut result = TextResult::new(vec![ColumnDef::text("Variable_name"), ColumnDef::text("Value")]);
    result.push([Some("server_id"), Some("9001")]);
    result.push([Some("empty"), None]);
    result
}

#[test]
fn values_are_found_by_column_name_in_any_case() {
    let ReadStep::Rows(rows) = read(&encoded(&two_columns(), 0), ResultReader::new(0)).unwrap() else { panic!() };
    assert_eq!(rows.get(0, "VALUE"), Some("9001"));
    assert_eq!(rows.get(1, "Value"), None);
    assert_eq!(rows.get(2, "Value"), None);
    assert_eq!(rows.at(1, 0), Some("empty"));
}

#[test]
fn a_result_without_rows_is_a_result() {
    let empty = TextResult::new(vec![ColumnDef::integer("Id")]);
    for capabilities in [0, CLIENT_DEPRECATE_EOF] {
        let step = read(&encoded(&empty, capabilities), ResultReader::new(capabilities)).unwrap();
        assert_eq!(step, ReadStep::Rows(TextRows { columns: vec!["Id".into()], rows: Vec::new() }));
    }
}

#[test]
fn an_error_after_some_rows_is_the_answer() {
    let bytes = encoded(&two_columns(), 0);
    let mut reader = ResultReader::new(0);
    let mut buf = BytesMut::from(&bytes[..]);
    let mut decoder = PacketDecoder::new(usize::MAX);
    for _ in 0..5 {
        let packet = decoder.decode(&mut buf).unwrap().unwrap();
        assert_eq!(reader.on_packet(&packet.payload).unwrap(), ReadStep::More);
    }
    let killed = ErrPacket::new(code::CONNECTION_KILLED, "Connection was killed");
    assert_eq!(reader.on_packet(&killed.encode()).unwrap(), ReadStep::Err(killed));
    assert!(reader.on_packet(&[0xfe, 0, 0, 2, 0]).is_err(), "nothing may follow");
}

#[test]
fn rows_and_bytes_are_bounded() {
    let bytes = encoded(&two_columns(), 0);
    let rows = read(&bytes, ResultReader::new(0).with_limits(1, 1000)).unwrap_err();
    assert_eq!(rows.to_string(), "result set: more than 1 rows");
    let size = read(&bytes, ResultReader::new(0).with_limits(10, 20)).unwrap_err();
    assert_eq!(size.to_string(), "result set: more than 20 bytes");
}

#[test]
fn a_request_for_a_local_file_is_refused() {
    let error = ResultReader::new(0).on_packet(b"\xfb/etc/passwd").unwrap_err();
    assert!(error.to_string().contains("local file"));
}

#[test]
fn a_row_with_too_many_or_too_few_values_is_an_error() {
    let mut result = two_columns();
    result.rows[0].push(Some(b"surplus".to_vec()));
    assert!(read(&encoded(&result, 0), ResultReader::new(0)).is_err());
    result.rows[0].truncate(1);
    assert!(read(&encoded(&result, 0), ResultReader::new(0)).is_err());
}

proptest! {
    #[test]
    fn what_is_sent_is_what_is_read(
        columns in prop::collection::vec("[a-z_@.]{0,20}", 1..5),
        values in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..300)), 0..40),
        deprecate_eof in any::<bool>(),
    ) {
        let capabilities = if deprecate_eof { CLIENT_DEPRECATE_EOF } else { 0 };
        let rows: Vec<Vec<_>> = values.chunks_exact(columns.len()).map(<[_]>::to_vec).collect();
        let sent = TextResult { columns: columns.iter().map(|c| ColumnDef::text(c)).collect(), rows: rows.clone() };
        let step = read(&encoded(&sent, capabilities), ResultReader::new(capabilities)).unwrap();
        prop_assert_eq!(step, ReadStep::Rows(TextRows { columns, rows }));
    }

    #[test]
    fn random_payloads_never_panic(
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
        capabilities in any::<u32>(),
        extended in any::<u32>(),
        columns in 1u8..4,
    ) {
        let mut random = ResultReader::new(capabilities).with_extended(extended);
        let mut begun = ResultReader::new(0);
        begun.on_packet(&[columns]).unwrap();
        let definition = ColumnDef::text("c").encode();
        for payload in &payloads {
            let _ = random.on_packet(payload);
            let _ = begun.on_packet(payload);
            let _ = begun.on_packet(&definition);
            let _ = ColumnDef::parse(payload, extended);
        }
    }
}
