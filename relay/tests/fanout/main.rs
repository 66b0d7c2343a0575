//! The replication port from outside: a client that looks at every packet, over a log that is fed as an upstream feeds it.

mod ahead;
mod client;
#[path = "../log/support.rs"]
#[allow(dead_code)]
mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use baton_relay::config::ListenTls;
use baton_relay::fanout::{self, Registry, ReplicaState};
use baton_relay::log::{Appender, Log, LogPos};
use baton_relay::metrics::Metrics;
use baton_relay::upstream::UpstreamStatus;
use baton_wire::auth::StoredPassword;
use baton_wire::checksum::ChecksumAlg;
use baton_wire::event::{EventKind, FLAG_ARTIFICIAL, GtidListEvent, Rotate};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use client::{Client, Got};
use support::{Parsed, Primary, gtids, open_dir, spec};

const DEADLINE: Duration = Duration::from_secs(30);

/// A replication port over a log.
struct Port {
    address: std::net::SocketAddr,
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
    upstream: watch::Sender<UpstreamStatus>,
    cancel: CancellationToken,
    served: JoinHandle<()>,
    _dir: tempfile::TempDir,
    log: Arc<Log>,
}

async fn port() -> (Port, Appender) {
    let dir = tempfile::tempdir().unwrap();
    let (log, appender) = open_dir(dir.path());
    let registry = Registry::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = fanout::Options {
        server_id: 9001,
        name: "relay-1".into(),
        port: address.port(),
        accounts: HashMap::from([(client::USER.into(), StoredPassword::new(client::PASSWORD.as_bytes()))]),
        tls: None,
        tls_policy: ListenTls::Prefer,
        max_connections: 20,
        login_timeout: Duration::from_secs(10),
        max_packet: 1 << 20,
        upstream_user: "repl".into(),
    };
    let (told, upstream) = watch::channel(UpstreamStatus::default());
    let metrics = Metrics::new();
    let shared = fanout::Shared::new(options, Arc::clone(&log), Arc::clone(&registry), Arc::clone(&metrics), upstream);
    let cancel = CancellationToken::new();
    let served = tokio::spawn(fanout::serve(listener, shared, cancel.clone()));
    (Port { address, registry, metrics, upstream: told, cancel, served, _dir: dir, log }, appender)
}

impl Port {
    /// The upstream side has heard where the primary is.
    fn primary_is_at(&self, gtid: &str) {
        self.upstream.send_modify(|status| status.primary_gtid = Some(gtid.into()));
    }

    /// A client that has introduced itself as a replica does.
    async fn replica(&self, state: &str) -> Client {
        let mut client = Client::connect(self.address).await;
        client.ok("SET @master_binlog_checksum= @@global.binlog_checksum").await;
        client.ok("SET @mariadb_slave_capability=4").await;
        client.ok(&format!("SET @slave_connect_state='{state}'")).await;
        client
    }
}

/// Appends a whole file as the upstream side does, which never cuts an event, and waits until all of it is durable.
async fn feed(appender: &mut Appender, file: &Parsed) {
    appender.open_file(spec(file.number)).await.unwrap();
    for ends in file.boundaries.windows(2) {
        appender.append(file.batch(ends[0], ends[1])).await.unwrap();
    }
    appender.settle().await.unwrap();
}

fn kinds(got: &[Got]) -> Vec<EventKind> {
    got.iter().map(|g| g.event().kind).collect()
}

#[tokio::test]
async fn a_held_client_hears_of_us_while_the_head_moves_and_then_gets_its_stream_without_a_break() {
    let (port, mut appender) = port().await;
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    for n in 1..2000 {
        primary.transaction(&format!("0-1-{n}"), 10);
    }
    let file = primary.transaction("0-1-5000", 10).transaction("0-1-5001", 10).take(1);
    appender.open_file(spec(1)).await.unwrap();
    let mut at = file.transactions[0].ends;
    appender.append(file.batch(4, at)).await.unwrap();
    appender.settle().await.unwrap();

    let mut client = port.replica("0-1-5000").await;
    client.ok("SET @master_heartbeat_period= 40000000").await;
    client.dump("", 4, 2).await;
    let (heard, mut enough) = tokio::sync::oneshot::channel();
    let listening = tokio::spawn(async move {
        // A server stops over a heartbeat that names another file than the one it was told of, or none.
        let named = client.next().await;
        assert_eq!(named.event().kind, EventKind::ROTATE);
        assert_eq!(client.next().await.event().kind, EventKind::FORMAT_DESCRIPTION);
        for _ in 0..2 {
            let got = client.next().await;
            // No client may be told a lower position than it has.
            assert_eq!((got.event().kind, got.event().log_pos), (EventKind::HEARTBEAT, u32::MAX));
            let (in_heartbeat, in_rotate) =
                (&got.bytes[19..got.bytes.len() - 4], &named.bytes[27..named.bytes.len() - 4]);
            assert_eq!((in_heartbeat, in_rotate), (&b"mysql-bin.000001"[..], &b"mysql-bin.000001"[..]));
        }
        heard.send(()).unwrap();
        let mut rest = Vec::new();
        loop {
            let got = client.next().await;
            let last = got.event().kind == EventKind::XID;
            // The numbers of the packets go on from the heartbeats: that is checked with each.
            rest.extend(Some(got).filter(|g| g.event().kind != EventKind::HEARTBEAT));
            if last {
                return rest;
            }
        }
    });
    // The head moves without a rest until the client has heard of us.
    let last = file.transactions.len() - 2;
    for transaction in &file.transactions[1..last] {
        if enough.try_recv().is_ok() {
            break;
        }
        appender.append(file.batch(at, transaction.ends)).await.unwrap();
        appender.settle().await.unwrap();
        at = transaction.ends;
    }
    appender.append(file.batch(at, file.len())).await.unwrap();
    let rest = timeout(DEADLINE, listening).await.expect("the stream").unwrap();
    let expected = [
        EventKind::ROTATE,
        EventKind::FORMAT_DESCRIPTION,
        EventKind::GTID_LIST,
        EventKind::GTID_LIST,
        EventKind::MARIADB_GTID,
        EventKind::WRITE_ROWS_V1,
        EventKind::XID,
    ];
    assert_eq!(kinds(&rest), expected);
    assert_eq!(rest[4].bytes[19..27], 5001_u64.to_le_bytes());
}

#[tokio::test]
async fn an_error_behind_the_first_event_has_the_number_that_follows() {
    let (port, mut appender) = port().await;
    feed(&mut appender, &Primary::new(ChecksumAlg::Crc32, &[]).transaction("0-1-1", 10).take(1)).await;
    // It never said that it understands checksums.
    let mut client = Client::connect(port.address).await;
    client.dump("mysql-bin.000001", 4, 2).await;
    let rotate = client.next().await;
    assert_eq!((rotate.event().kind, rotate.sequence), (EventKind::ROTATE, 1));
    let error = client.next().await;
    assert_eq!((error.error().code, error.sequence), (1236, 2));
    assert!(error.error().message.contains("checksum"), "{}", error.error().message);
}

#[tokio::test]
async fn a_client_without_statements_may_begin_at_any_event() {
    let (port, mut appender) = port().await;
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    let file = primary.transaction("0-1-1", 20_000).transaction("0-1-2", 10).take(1);
    feed(&mut appender, &file).await;
    let inside = *file.boundaries.iter().rfind(|b| **b < file.transactions[0].ends - 100).unwrap();
    assert!(inside > file.transactions[0].begins);
    let mut client = Client::connect(port.address).await;
    client.ok("SET @master_binlog_checksum= 'CRC32'").await;
    client.ok("SET @mariadb_slave_capability=4").await;
    client.dump("mysql-bin.000001", u32::try_from(inside).unwrap(), 0).await;
    let mut got = Vec::new();
    while got.iter().filter(|g: &&Got| g.event().kind == EventKind::XID).count() < 2 {
        got.push(client.next().await);
    }
    let sent: Vec<u8> = got[2..].iter().flat_map(|g| g.bytes.clone()).collect();
    assert_eq!(sent, file.data[inside as usize..]);
}

#[tokio::test]
async fn a_client_at_the_very_beginning_of_a_file_gets_the_file_as_it_is() {
    let (port, mut appender) = port().await;
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    feed(&mut appender, &primary.transaction("0-1-1", 10).rotate(1)).await;
    let two = primary.transaction("0-1-2", 10).transaction("0-1-3", 10).take(2);
    feed(&mut appender, &two).await;
    // The primary's start is told by the format description's time: temporary tables of the time before are gone.
    assert_ne!(two.data[4 + 19 + 52..4 + 19 + 56], [0; 4]);
    let mut client = port.replica("0-1-1").await;
    client.dump("", 4, 2).await;
    let rotate = client.next().await;
    assert_eq!(Rotate::parse(rotate.body()).unwrap().file, "mysql-bin.000002");
    let mut sent = Vec::new();
    while sent.len() < two.data.len() - 4 {
        sent.extend(client.next().await.bytes);
    }
    assert_eq!(sent, two.data[4..]);

    let mut client = port.replica("0-1-2").await;
    client.dump("", 4, 2).await;
    let got = [client.next().await, client.next().await, client.next().await, client.next().await];
    assert_eq!(got[1].bytes[19 + 52..19 + 56], [0; 4], "in the middle of a file nothing started");
    assert_eq!(got[3].event().flags, FLAG_ARTIFICIAL);
    assert_eq!(GtidListEvent::parse(got[3].body()).unwrap().position(), gtids("0-1-2"));
}

#[tokio::test]
async fn transactions_of_a_domain_that_the_client_has_others_of_are_neither_sent_nor_passed_over() {
    let (port, mut appender) = port().await;
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    let file = primary.transaction("0-1-1", 10).transaction("0-1-2", 10).transaction("7-1-1", 10).take(1);
    let known = file.transactions[1].ends;
    appender.open_file(spec(1)).await.unwrap();
    appender.append(file.batch(4, known)).await.unwrap();
    appender.settle().await.unwrap();
    let mut client = port.replica("0-1-1,7-9-100").await;
    client.dump("", 4, 2).await;
    while client.next().await.event().kind != EventKind::XID {}
    appender.append(file.batch(known, file.len())).await.unwrap();
    let end = client.next().await;
    assert_eq!(end.error().code, 1236);
    assert!(end.error().message.contains("GTID 7-9-100, which is not in"), "{}", end.error().message);
}

#[tokio::test]
async fn until_ends_with_the_list_that_says_so() {
    let (port, mut appender) = port().await;
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    for n in 1..=5 {
        primary.transaction(&format!("0-1-{n}"), 10);
    }
    feed(&mut appender, &primary.take(1)).await;
    let mut client = port.replica("0-1-1").await;
    client.ok("SET @slave_until_gtid='0-1-3'").await;
    client.dump("", 4, 2).await;
    let mut transactions = 0;
    let last = loop {
        let got = client.next().await;
        transactions += usize::from(got.event().kind == EventKind::XID);
        let list = (got.event().kind == EventKind::GTID_LIST).then(|| GtidListEvent::parse(got.body()).unwrap());
        if let Some(list) = list.filter(|l| l.flags == 1) {
            break list;
        }
    };
    assert_eq!((transactions, last.position()), (2, gtids("0-1-3")));
}

#[tokio::test]
async fn a_client_that_asks_and_never_reads_keeps_nobody_from_stopping() {
    use tokio::io::AsyncWriteExt;
    let (port, mut appender) = port().await;
    feed(&mut appender, &Primary::new(ChecksumAlg::Crc32, &[]).transaction("0-1-1", 10).take(1)).await;
    let client = Client::connect(port.address).await;
    let mut stream: TcpStream = client.into_stream();
    let mut question = Vec::new();
    baton_wire::packet::write_packet(&mut question, &mut 0, b"\x03SHOW VARIABLES");
    // Until neither side can put more into the network.
    while timeout(Duration::from_millis(500), stream.write_all(&question.repeat(1000))).await.is_ok() {}
    port.cancel.cancel();
    timeout(Duration::from_secs(8), port.served).await.expect("the port stops").unwrap();
    assert!(port.registry.list().is_empty() && port.log.head().is_some());
    drop(stream);
}

#[tokio::test]
async fn only_transactions_count_as_delivered_and_not_the_heartbeats_behind_them() {
    let (port, mut appender) = port().await;
    let file = Primary::new(ChecksumAlg::Crc32, &[]).transaction("0-1-1", 10).transaction("0-1-2", 10).take(1);
    let first = file.transactions[0].ends;
    appender.open_file(spec(1)).await.unwrap();
    appender.append(file.batch(4, first)).await.unwrap();
    appender.settle().await.unwrap();
    let mut client = port.replica("0-1-1").await;
    client.ok("SET @master_heartbeat_period= 20000000").await;
    client.dump("", 4, 2).await;
    let delivered = || port.metrics.fanout_delivery_duration.get_sample_count();
    let mut until = async |kind: EventKind| while client.next().await.event().kind != kind {};
    until(EventKind::HEARTBEAT).await;
    assert_eq!(delivered(), 0);
    appender.append(file.batch(first, file.len())).await.unwrap();
    appender.settle().await.unwrap();
    until(EventKind::XID).await;
    until(EventKind::HEARTBEAT).await;
    until(EventKind::HEARTBEAT).await;
    assert_eq!(delivered(), 1);
}

/// Waits until what the replica on the only connection has received is `expected`.
async fn received(port: &Port, expected: LogPos) {
    let seen = timeout(DEADLINE, async {
        while port.registry.list().first().and_then(|r| r.received()) != Some(expected) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    assert!(seen.await.is_ok(), "{expected} expected, {:?}", port.registry.list().first().map(|r| r.received()));
}

#[tokio::test]
async fn a_client_that_acknowledges_is_asked_for_it_and_believed_in_what_it_was_sent_only() {
    let (port, mut appender) = port().await;
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    let file = primary.transaction("0-1-1", 10).transaction("0-1-2", 10).transaction("0-1-3", 10).take(1);
    let [first, second, third] = [0, 1, 2].map(|n| file.transactions[n].ends);
    appender.open_file(spec(1)).await.unwrap();
    appender.append(file.batch(4, first)).await.unwrap();
    appender.settle().await.unwrap();

    let mut client = port.replica("").await;
    client.ok("SET @master_heartbeat_period= 60000000000").await;
    client.semi_sync().await;
    client.dump("", 4, 2).await;
    // Nothing but the end of the transaction asks; behind it the numbers begin at 1 again, which is checked with each packet.
    let mut last = client.next().await;
    while last.event().kind != EventKind::XID {
        assert!(!last.asks, "{}", last.event().kind);
        last = client.next().await;
    }
    assert!(last.asks);
    received(&port, LogPos { file: 1, offset: file.transactions[0].begins }).await;

    let ack = |offset: u64, file: &str| [&[0xef][..], &offset.to_le_bytes(), file.as_bytes()].concat();
    let name = format!("{}.000001", support::BASE);
    let mut wrong_magic = ack(first, &name);
    wrong_magic[0] = 0xee;
    let garbage =
        [wrong_magic, vec![0xef, 1, 2], Vec::new(), ack(second, &name), ack(4, "other.000001"), vec![0xef; 100_000]];
    for ignored in &garbage {
        client.say(ignored).await;
    }
    client.say(&ack(first, &name)).await;
    received(&port, LogPos { file: 1, offset: first }).await;
    assert_eq!(port.metrics.fanout_ignored_acks.get(), garbage.len() as u64);
    assert_eq!(port.metrics.fanout_acks.get(), 1);

    // Two at once: the last one is asked for, and its acknowledgement is one of both.
    appender.append(file.batch(first, third)).await.unwrap();
    let mut asked = Vec::new();
    while asked.is_empty() {
        let got = client.next().await;
        asked.extend(got.asks.then(|| u64::from(got.event().log_pos)));
    }
    assert_eq!(asked, [third]);
    received(&port, LogPos { file: 1, offset: first }).await;
    client.say(&ack(second, &name)).await;
    received(&port, LogPos { file: 1, offset: second }).await;
    client.say(&ack(third, &name)).await;
    client.say(&ack(first, &name)).await;
    received(&port, LogPos { file: 1, offset: third }).await;
    port.cancel.cancel();
}
