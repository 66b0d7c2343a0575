//! A clock that jumps between two lives of the relay.

use baton_relay::clock::Micros;
use baton_relay::log::Batch;
use baton_wire::checksum::ChecksumAlg;
use baton_wire::gtid::GtidPosition;

use crate::support::*;

/// A file whose every byte arrived `later` than now.
fn arriving(mut batch: Batch, later: i64) -> Batch {
    batch.received_at = Micros(Micros::now().0 + later);
    for transaction in &mut batch.transactions {
        transaction.arrived = batch.received_at;
    }
    batch
}

#[tokio::test]
async fn clock_set_back_by_a_day_between_two_lives_leaves_no_arrival_in_the_future_and_none_out_of_order() {
    const DAY: i64 = 86_400_000_000;
    let dir = tempfile::tempdir().unwrap();
    let mut primary = Primary::new(ChecksumAlg::Crc32, &[]);
    let mut files = Vec::new();
    for number in 1..=3_u64 {
        for n in 0..4 {
            primary.transaction(&format!("0-1-{}", number * 4 + n - 3), 10);
        }
        files.push(if number < 3 { primary.rotate(number) } else { primary.take(number) });
    }
    let half = files[1].transactions[1].ends;
    {
        let (_log, mut appender) = open_dir(dir.path());
        appender.open_file(spec(1)).await.unwrap();
        appender.append(arriving(files[0].batch(4, files[0].len()), DAY)).await.unwrap();
        appender.open_file(spec(2)).await.unwrap();
        appender.append(arriving(files[1].batch(4, half), DAY)).await.unwrap();
        appender.close().await;
    }
    {
        let (_log, mut appender) = open_dir(dir.path());
        appender.append(arriving(files[1].batch(half, files[1].len()), 0)).await.unwrap();
        appender.open_file(spec(3)).await.unwrap();
        appender.append(arriving(files[2].batch(4, files[2].len()), 0)).await.unwrap();
        appender.close().await;
    }
    let (log, appender) = open_dir(dir.path());
    let mut before = Micros::default();
    for n in 0..12 {
        let position = if n == 0 { String::new() } else { format!("0-1-{n}") };
        let place = log.place_of_gtid(&GtidPosition::MariaDb(position.parse().unwrap())).unwrap();
        let arrived = place.oldest_missing.unwrap();
        assert!(arrived <= Micros::now() && arrived >= before, "{position}: {}", arrived.rfc3339());
        before = arrived;
    }
    appender.close().await;
}
