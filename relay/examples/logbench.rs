use std::sync::Arc;
use std::time::Instant;
use baton_relay::log::*;
use baton_relay::clock::Micros;
use baton_wire::event::*;
use baton_wire::checksum::ChecksumAlg;
#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let a: Vec<String> = std::env::args().collect();
    let n: u64 = a[2].parse().unwrap(); let size: usize = a[3].parse().unwrap(); let wait = a[4] == "wait";
    let storage = Arc::new(DiskStorage::open(&a[1]).unwrap());
    let (log, mut ap) = Log::open(storage, LogConfig { cluster: "b".into(), ..Default::default() }).unwrap();
    ap.open_file(OpenFile { number: 1, base: "b".into(), upstream_server_id: 1, flavor: baton_wire::Flavor::MariaDb }).await.unwrap();
    let cap = std::fs::read("relay/wire/tests/captures/mariadb-row-crc32.binlog").unwrap();
    let h = EventHeader::parse(&cap[4..]).unwrap(); let mut at = 4usize; let mut buf = cap[4..4 + h.size as usize].to_vec();
    let list = GtidListEvent { gtids: vec![], flags: 0 };
    let ev = |kind, body: &[u8]| event::build(EventHeader { timestamp: 1, kind, server_id: 1, size: 0, log_pos: 1, flags: 0 }, body, ChecksumAlg::Crc32);
    use baton_wire::event;
    buf.extend_from_slice(&ev(EventKind::GTID_LIST, &list.body()));
    let len = buf.len();
    ap.append(Batch { file: 1, offset: at as u64, data: buf.into(), whole: Some((at + len) as u64), transactions: vec![], received_at: Micros::now() }).await.unwrap();
    at += len;
    let mut heads = log.subscribe();
    let begun = Instant::now();
    let rows = vec![7u8; size];
    let mut body = 1u64.to_le_bytes().to_vec(); body.extend_from_slice(&0u32.to_le_bytes()); body.extend_from_slice(&[0x0c, 0, 0, 0, 0, 0, 0]);
    let mut txn = ev(EventKind::MARIADB_GTID, &body).to_vec();
    txn.extend_from_slice(&ev(EventKind::WRITE_ROWS_V1, &rows)); txn.extend_from_slice(&ev(EventKind::XID, &1u64.to_le_bytes()));
    let txn = bytes::Bytes::from(txn);
    for i in 0..n {
        let end = (at + txn.len()) as u64;
        let id = baton_wire::gtid::TransactionId::MariaDb(baton_wire::gtid::mariadb::Gtid { domain: 0, server_id: 1, sequence: i + 1 });
        ap.append(Batch { file: 1, offset: at as u64, data: txn.clone(), whole: Some(end), transactions: vec![Transaction { id, begins: at as u64, ends: end, arrived: Micros::now() }], received_at: Micros::now() }).await.unwrap();
        if wait { heads.wait_for(|h| h.as_ref().is_some_and(|h| h.pos.offset >= end)).await.unwrap(); }
        at = end as usize;
    }
    ap.settle().await.unwrap();
    let t = begun.elapsed();
    println!("{n} x {} bytes: {:.0} batches/s, {:.1} MB/s, {:?}", txn.len(), n as f64 / t.as_secs_f64(), (n as usize * txn.len()) as f64 / 1e6 / t.as_secs_f64(), t);
}
