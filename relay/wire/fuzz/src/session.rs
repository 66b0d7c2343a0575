//! The connection phase, commands and answers: what was understood encodes to something that is understood alike.

use baton_wire::auth::AuthSwitch;
use baton_wire::capabilities::{CLIENT_DEPRECATE_EOF, CLIENT_OPTIONAL_RESULTSET_METADATA};
use baton_wire::command::Command;
use baton_wire::handshake::{ClientFirst, ServerFirst};
use baton_wire::packet::PacketDecoder;
use baton_wire::response::{EofPacket, ErrPacket, OkPacket};
use baton_wire::resultset::{ColumnDef, ReadStep, ResultReader, TextResult, TextRows};
use bytes::BytesMut;

use super::input::Input;

/// Input: the first payload of a server.
pub fn greeting(data: &[u8]) {
    let Ok(first) = ServerFirst::parse(data) else { return };
    let again = match &first {
        ServerFirst::Greeting(greeting) => greeting.encode(),
        ServerFirst::Refused(error) => error.encode(),
    };
    assert_eq!(ServerFirst::parse(&again), Ok(first));
}

/// Input: the first payload of a client.
pub fn client_first(data: &[u8]) {
    let Ok(first) = ClientFirst::parse(data) else { return };
    let again = match &first {
        ClientFirst::Ssl(request) => Ok(request.encode()),
        ClientFirst::Response(response) => response.encode(),
    };
    assert_eq!(again.and_then(|bytes| ClientFirst::parse(&bytes)), Ok(first));
}

/// Input: capabilities, payload.
pub fn command(data: &[u8]) {
    let mut input = Input(data);
    let capabilities = input.word();
    let Ok(command) = Command::parse(input.0, capabilities) else { return };
    let again = command.encode(capabilities);
    if let (Command::RegisterSlave(register), Err(_)) = (&command, &again) {
        // Replacement characters are longer than what they stand for.
        assert!([&register.host, &register.user, &register.password].iter().any(|text| text.len() > 255));
        return;
    }
    assert_eq!(again.and_then(|bytes| Command::parse(&bytes, capabilities)), Ok(command));
}

/// Input: capabilities, payload. The small answers of a server.
pub fn answers(data: &[u8]) {
    let mut input = Input(data);
    let capabilities = input.word();
    let payload = input.0;
    if let Ok(ok) = OkPacket::parse(payload, capabilities) {
        assert_eq!(OkPacket::parse(&ok.encode(capabilities), capabilities), Ok(ok.clone()));
        assert_eq!(OkPacket::parse(&ok.encode_end_of_rows(capabilities), capabilities), Ok(ok));
    }
    if let Ok(eof) = EofPacket::parse(payload) {
        assert_eq!(EofPacket::parse(&eof.encode()), Ok(eof));
    }
    if let Ok(error) = ErrPacket::parse(payload) {
        assert_eq!(ErrPacket::parse(&error.encode()), Ok(error));
    }
    if let Ok(switch) = AuthSwitch::parse(payload) {
        assert_eq!(AuthSwitch::parse(&switch.encode()), Ok(switch));
    }
    if let Ok(column) = ColumnDef::parse(payload, 0) {
        assert_eq!(ColumnDef::parse(&column.encode(), 0), Ok(column));
    }
    let _ = ColumnDef::parse(payload, capabilities);
}

/// Input: capabilities, extended capabilities, most rows, payloads as chunks. Limits hold; a result set that was read, written by our
/// server side, is read alike.
pub fn result_reader(data: &[u8]) {
    let mut input = Input(data);
    let (capabilities, extended) = (input.word(), u32::from(input.byte()));
    let (max_rows, max_bytes) = (usize::from(input.byte()), 2000);
    let mut reader = ResultReader::new(capabilities).with_extended(extended).with_limits(max_rows, max_bytes);
    let mut taken = 0;
    while let Some(payload) = input.chunk() {
        let Ok(step) = reader.on_packet(payload) else { return };
        taken += payload.len();
        assert!(taken <= max_bytes);
        match step {
            ReadStep::More => continue,
            ReadStep::Rows(rows) => written_and_read(rows, max_rows, capabilities),
            ReadStep::Ok(_) | ReadStep::Err(_) => {}
        }
        assert!(reader.on_packet(payload).is_err(), "the answer was complete");
        return;
    }
}

fn written_and_read(rows: TextRows, max_rows: usize, capabilities: u32) {
    assert!(rows.rows.len() <= max_rows);
    assert!(rows.rows.iter().all(|row| row.len() == rows.columns.len()));
    for capabilities in [capabilities | CLIENT_DEPRECATE_EOF, capabilities & !CLIENT_DEPRECATE_EOF] {
        let capabilities = capabilities & !CLIENT_OPTIONAL_RESULTSET_METADATA;
        let columns = rows.columns.iter().map(|name| ColumnDef::text(name)).collect();
        let result = TextResult { columns, rows: rows.rows.clone() };
        let mut out = Vec::new();
        result.encode(&mut out, &mut 1, capabilities, 2);

        let (mut buf, mut decoder) = (BytesMut::from(&out[..]), PacketDecoder::new(1 << 20));
        let mut reader = ResultReader::new(capabilities);
        let mut step = ReadStep::More;
        while let Ok(Some(packet)) = decoder.decode(&mut buf) {
            step = reader.on_packet(&packet.payload).expect("our own result set is read");
        }
        assert_eq!(step, ReadStep::Rows(rows.clone()));
        assert!(buf.is_empty());
    }
}
