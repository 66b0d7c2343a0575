//! Clients that are ahead in a domain of which the log has nothing yet, as while it is filled anew; and those that have such a domain for themselves.

use super::*;

/// A log whose first file has begun and holds no transaction yet, and the file that comes, with three.
async fn begun(port: &Port, appender: &mut Appender) -> Parsed {
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    let file = primary.transaction("0-1-1", 10).transaction("0-1-2", 10).transaction("0-1-3", 10).take(1);
    appender.open_file(spec(1)).await.unwrap();
    appender.append(file.batch(4, file.transactions[0].begins)).await.unwrap();
    appender.settle().await.unwrap();
    assert!(port.log.head().is_some());
    file
}

/// Appends what comes up to the end of the `n`th transaction.
async fn append(port: &Port, appender: &mut Appender, file: &Parsed, n: usize) {
    let at = port.log.head().unwrap().pos.offset;
    appender.append(file.batch(at, file.transactions[n - 1].ends)).await.unwrap();
    appender.settle().await.unwrap();
}

/// A client that asks for the stream, with heartbeats.
async fn asking(port: &Port, state: &str) -> Client {
    let mut client = port.replica(state).await;
    client.ok("SET @master_heartbeat_period= 20000000").await;
    client.dump("", 4, 2).await;
    client
}

async fn until(client: &mut Client, kind: EventKind) -> Got {
    loop {
        let got = client.next().await;
        if got.event().kind == kind {
            return got;
        }
    }
}

/// Waits for the error behind what else comes.
async fn error(client: &mut Client) -> (u16, String) {
    loop {
        let got = client.next().await;
        if got.is_error() {
            return (got.error().code, got.error().message);
        }
        assert_ne!(got.event().kind, EventKind::MARIADB_GTID);
    }
}

/// The sequence number of the next transaction that the client is sent.
async fn next_sequence(client: &mut Client) -> u64 {
    u64::from_le_bytes(*until(client, EventKind::MARIADB_GTID).await.body().first_chunk().unwrap())
}

#[tokio::test]
async fn a_client_in_a_domain_that_the_log_has_nothing_of_yet_is_held_until_its_position_is_there() {
    let (port, mut appender) = port().await;
    port.primary_is_at("0-1-2");
    let file = begun(&port, &mut appender).await;
    let mut client = asking(&port, "0-1-2").await;
    until(&mut client, EventKind::HEARTBEAT).await;
    assert_eq!(port.registry.list()[0].state(), ReplicaState::Held);
    append(&port, &mut appender, &file, 1).await;
    until(&mut client, EventKind::HEARTBEAT).await;
    append(&port, &mut appender, &file, 3).await;
    assert_eq!(next_sequence(&mut client).await, 3);
}

#[tokio::test]
async fn a_client_that_was_held_for_a_domain_is_refused_once_another_transaction_stands_at_its_place() {
    let (port, mut appender) = port().await;
    port.primary_is_at("0-1-3");
    let file = begun(&port, &mut appender).await;
    let mut client = asking(&port, "0-9-2").await;
    until(&mut client, EventKind::HEARTBEAT).await;
    append(&port, &mut appender, &file, 3).await;
    let (code, message) = error(&mut client).await;
    assert!(code == 1236 && message.contains("GTID 0-9-2, which is not in"), "{code}: {message}");
}

#[tokio::test]
async fn a_client_that_turns_out_to_be_ahead_once_its_domain_begins_comes_again_and_is_held() {
    // The relay could not ask the primary yet; of the second client's server it hears later.
    for (state, at) in [("0-1-2", None), ("0-9-2", Some("0-9-2"))] {
        let (port, mut appender) = port().await;
        let file = begun(&port, &mut appender).await;
        let mut client = asking(&port, state).await;
        until(&mut client, EventKind::FORMAT_DESCRIPTION).await;
        if let Some(at) = at {
            port.primary_is_at(at);
        }
        append(&port, &mut appender, &file, 1).await;
        let (code, message) = error(&mut client).await;
        // MariaDB's replicas come again at any other error.
        assert!(code == 1105 && message.contains(&format!("{state} lies ahead")), "{code}: {message}");
        let mut client = asking(&port, state).await;
        until(&mut client, EventKind::HEARTBEAT).await;
    }
}

#[tokio::test]
async fn a_domain_that_begins_with_what_the_client_has_goes_on_behind_it() {
    let (port, mut appender) = port().await;
    let file = begun(&port, &mut appender).await;
    let mut client = asking(&port, "0-1-1").await;
    until(&mut client, EventKind::FORMAT_DESCRIPTION).await;
    append(&port, &mut appender, &file, 3).await;
    assert_eq!(next_sequence(&mut client).await, 2);
}

#[tokio::test]
async fn a_domain_of_the_clients_own_keeps_it_from_nothing() {
    for at in [None, Some("0-1-3")] {
        let (port, mut appender) = port().await;
        if let Some(at) = at {
            port.primary_is_at(at);
        }
        let file = begun(&port, &mut appender).await;
        append(&port, &mut appender, &file, 2).await;
        let mut client = asking(&port, "0-1-1,7-9-100").await;
        assert_eq!(next_sequence(&mut client).await, 2);
        append(&port, &mut appender, &file, 3).await;
        assert_eq!(next_sequence(&mut client).await, 3);
    }
}
