//! Which files may go: the oldest first, by age and by bytes; never the one that holds the head (a later one may be begun and still tell nothing),
//! never one that a reader holds, unless the hard limit is hit.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::error::LogError;
use super::segment::{Segments, lock};
use super::store::{Log, LogConfig};
use super::{arrivals, crcs, index};
use crate::clock::Micros;

/// What retention sees of a file.
struct Candidate {
    number: u64,
    bytes: u64,
    last_arrival: Micros,
    pins: usize,
}

/// Numbers of the files to remove; `files` are all, in ascending order, `head` is the one that holds the head.
fn decide(files: &[Candidate], head: u64, config: &LogConfig, now: Micros) -> Vec<u64> {
    let mut bytes: u64 = files.iter().map(|f| f.bytes).sum();
    let mut out = Vec::new();
    for file in files.iter().take_while(|file| file.number < head) {
        let hard = config.retain_hard_bytes.is_some_and(|limit| bytes > limit);
        let much = config.retain_bytes.is_some_and(|limit| bytes > limit);
        let old = config.retain.is_some_and(|age| u128::from(now.millis_since(file.last_arrival)) > age.as_millis());
        let free = file.pins == 0;
        // The first one that stays keeps all behind it: the log has no holes.
        if !(hard || free && (much || old)) {
            break;
        }
        bytes = bytes.saturating_sub(file.bytes);
        out.push(file.number);
    }
    out
}

/// Removes what may go.
pub(super) fn apply(log: &Log, now: Micros) -> Result<(), LogError> {
    let removed = {
        let mut segments = log.segments.write().unwrap_or_else(PoisonError::into_inner);
        let Some(head) = log.head().map(|head| head.pos.file) else { return Ok(()) };
        let remove = decide(&candidates(&segments), head, &log.config, now);
        let removed: Vec<_> = remove.iter().filter_map(|n| segments.get(n).cloned()).collect();
        let Some(last) = removed.last() else { return Ok(()) };
        // Recorded before anything is removed: a missing file is damage unless it is known to have been let go. Rare and
        // short enough to hold the lock for; pins wait meanwhile.
        let mut meta = lock(&log.meta);
        let mut changed = meta.clone();
        changed.closed.retain(|(n, _)| *n > last.number);
        changed.purged_through = last.number;
        if let Some((_, next)) = segments.range(last.number + 1..).next() {
            changed.purged_transactions = next.base.total;
        }
        changed.store(&*log.storage)?;
        *meta = changed;
        for segment in &removed {
            segments.remove(&segment.number);
        }
        removed
    };
    let mut result = Ok(());
    for segment in removed {
        let pins = segment.pins.load(Ordering::Acquire);
        if pins > 0 {
            segment.cut.store(true, Ordering::Release);
            log.counters.readers_cut.fetch_add(pins as u64, Ordering::Relaxed);
            log.observed.tell(|o| o.readers_cut(pins as u64));
            tracing::warn!(
                file = segment.name,
                readers = pins,
                "removed under its readers: log.retain_hard_bytes is reached"
            );
        }
        log.counters.files_removed.fetch_add(1, Ordering::Relaxed);
        tracing::info!(file = segment.name, bytes = segment.size(), "removed by retention");
        // What can't be removed now goes at the next start.
        result = result.and(remove_files(log, &segment.name));
    }
    result?;
    log.storage.sync_dir().map_err(|e| LogError::storage(&log.storage.describe(), 0, "sync the directory", e))
}

fn candidates(segments: &Segments) -> Vec<Candidate> {
    let candidate = |s: &super::segment::Segment| Candidate {
        number: s.number,
        bytes: s.size(),
        last_arrival: s.last_arrival(),
        pins: s.pins.load(Ordering::Acquire),
    };
    segments.values().map(|s| candidate(s)).collect()
}

fn remove_files(log: &Log, name: &str) -> Result<(), LogError> {
    for name in [name.to_owned(), index::name(name), arrivals::name(name), crcs::name(name)] {
        match log.storage.remove(&name) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(LogError::storage(&name, 0, "remove", e));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn files(pins: [usize; 4]) -> Vec<Candidate> {
        let file = |(i, pins): (usize, usize)| Candidate {
            number: i as u64 + 1,
            bytes: 100,
            last_arrival: Micros(i as i64 * 1_000_000),
            pins,
        };
        pins.into_iter().enumerate().map(file).collect()
    }

    const NOW: Micros = Micros(10_000_000);

    #[test]
    fn without_limits_nothing_goes() {
        assert!(decide(&files([0; 4]), 4, &LogConfig::default(), NOW).is_empty());
    }

    #[test]
    fn bytes_take_the_oldest_until_they_fit() {
        let config = LogConfig { retain_bytes: Some(250), ..LogConfig::default() };
        assert_eq!(decide(&files([0; 4]), 4, &config, NOW), [1, 2]);
    }

    #[test]
    fn age_counts_from_the_last_arrival() {
        let config = LogConfig { retain: Some(Duration::from_millis(8500)), ..LogConfig::default() };
        assert_eq!(decide(&files([0; 4]), 4, &config, NOW), [1, 2]);
    }

    #[test]
    fn the_file_that_holds_the_head_stays_whatever_the_limits() {
        let config = LogConfig { retain_hard_bytes: Some(0), retain: Some(Duration::ZERO), ..LogConfig::default() };
        assert_eq!(decide(&files([1; 4]), 4, &config, NOW), [1, 2, 3]);
        assert_eq!(decide(&files([1; 4]), 3, &config, NOW), [1, 2], "the fourth was only begun");
    }

    #[test]
    fn a_held_file_keeps_itself_and_all_behind_it() {
        let config = LogConfig { retain_bytes: Some(0), ..LogConfig::default() };
        assert_eq!(decide(&files([0, 1, 0, 0]), 4, &config, NOW), [1]);
    }

    #[test]
    fn the_hard_limit_goes_no_further_than_it_must() {
        let config = LogConfig { retain_bytes: Some(100), retain_hard_bytes: Some(300), ..LogConfig::default() };
        assert_eq!(decide(&files([1, 1, 0, 0]), 4, &config, NOW), [1]);
    }
}
