//! A writer of numbered rows that remembers which commits its server confirmed: the witness for "no confirmed commit is lost".

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::mariadb::MariaDb;
use crate::sql::{Closer, Sql};
use crate::wait::wait_for;

/// Pause after a failed statement or connect.
const BACK_OFF: Duration = Duration::from_millis(20);

/// How long [`RowWriter::stop`] waits for answers.
const PATIENCE: Duration = Duration::from_secs(2);

/// Threads that insert rows, one commit each, and go on through errors until they are stopped.
pub struct RowWriter {
    db: MariaDb,
    table: String,
    stop: Arc<AtomicBool>,
    confirmed: Arc<AtomicU64>,
    threads: Vec<(JoinHandle<Written>, Arc<Slot>)>,
}

/// A way to cut off a writer that waits.
type Slot = Mutex<Option<Closer>>;

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// (writer, number) of each row whose commit was confirmed.
    pub confirmed: Vec<(u32, u64)>,
    /// (writer, number) of each row whose fate the client does not know.
    pub unknown: Vec<(u32, u64)>,
}

impl RowWriter {
    /// Creates `test.<table>` and starts `writers` threads, each with at least `pause` between two rows.
    pub fn start(db: &MariaDb, table: &str, writers: u32, pause: Duration) -> Result<Self> {
        let table = format!("test.{table}");
        db.sql(&format!("CREATE TABLE IF NOT EXISTS {table} (writer INT, number BIGINT, filler VARCHAR(200), PRIMARY KEY (writer, number))"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let confirmed = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        for writer in 0..writers {
            let (db, table, stop, confirmed) = (db.clone(), table.clone(), Arc::clone(&stop), Arc::clone(&confirmed));
            let slot = Arc::new(Slot::default());
            let closer = Arc::clone(&slot);
            let body = move || write(&db, &table, writer, pause, &Shared { stop, confirmed, closer });
            threads.push((thread::Builder::new().name(format!("writer-{writer}")).spawn(body)?, slot));
        }
        Ok(Self { db: db.clone(), table, stop, confirmed, threads })
    }

    /// Rows confirmed so far, by all writers.
    pub fn confirmed(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// Stops, and says what was written. A writer that waits in vain (a commit without its ack, a frozen server) is cut off after two seconds; that
    /// row counts as unknown.
    pub fn stop(mut self) -> Result<Written> {
        self.stop.store(true, Ordering::Relaxed);
        let all_done = || Ok(self.threads.iter().all(|(thread, _)| thread.is_finished()).then_some(()));
        if wait_for("writers to finish", PATIENCE, all_done).is_err() {
            for (_, slot) in &self.threads {
                if let Some(closer) = slot.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
                    closer.close();
                }
            }
        }
        let mut all = Written::default();
        for (thread, _) in self.threads.drain(..) {
            let written = thread.join().map_err(|_| anyhow!("a writer on {} panicked", self.db.name()))?;
            all.confirmed.extend(written.confirmed);
            all.unknown.extend(written.unknown);
        }
        Ok(all)
    }

    /// The table, with its database.
    pub fn table(&self) -> &str {
        &self.table
    }
}

impl Drop for RowWriter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Written {
    /// Confirmed rows that `db` lacks, at most `limit` of them.
    pub fn lost_on(&self, db: &MariaDb, table: &str, limit: usize) -> Result<Vec<(u32, u64)>> {
        let mut there = HashSet::new();
        for row in db.sql(&format!("SELECT writer, number FROM {table}"))? {
            let cell = |index: usize| row.get(index).cloned().flatten().context("a NULL in the key");
            there.insert((cell(0)?.parse()?, cell(1)?.parse()?));
        }
        Ok(self.confirmed.iter().filter(|row| !there.contains(row)).take(limit).copied().collect())
    }
}

struct Shared {
    stop: Arc<AtomicBool>,
    confirmed: Arc<AtomicU64>,
    closer: Arc<Slot>,
}

fn write(db: &MariaDb, table: &str, writer: u32, pause: Duration, shared: &Shared) -> Written {
    let mut written = Written::default();
    let mut session: Option<Sql> = None;
    let mut number = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let Some(sql) = session.as_mut() else {
            session = connect(db, &shared.closer);
            continue;
        };
        let filler = "x".repeat((number % 200) as usize);
        match sql.query(&format!("INSERT INTO {table} VALUES ({writer}, {number}, '{filler}')")) {
            Ok(_) => {
                written.confirmed.push((writer, number));
                shared.confirmed.fetch_add(1, Ordering::Relaxed);
                thread::sleep(pause);
            }
            Err(_) => {
                written.unknown.push((writer, number));
                session = None;
                thread::sleep(BACK_OFF);
            }
        }
        number += 1;
    }
    written
}

fn connect(db: &MariaDb, slot: &Slot) -> Option<Sql> {
    let sql = db.session().ok().and_then(|sql| sql.closer().ok().map(|closer| (sql, closer)));
    let Some((sql, closer)) = sql else {
        thread::sleep(BACK_OFF);
        return None;
    };
    *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(closer);
    Some(sql)
}
