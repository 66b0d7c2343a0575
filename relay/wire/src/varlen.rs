//! Integers and strings of MySQL's serialization library: the number of trailing one bits of the first byte is the number of
//! bytes that follow it; what is above the first zero bit is the value, little endian.
//!
//! Format: "Variable-length integers" in MySQL's `libs/mysql/serialization/readme.md`.

use crate::error::{Result, WireError};
use crate::read::Reader;

/// Reads an unsigned integer.
pub(crate) fn read(r: &mut Reader<'_>) -> Result<u64> {
    let first = r.u8()?;
    let extra = first.trailing_ones();
    if extra == 8 {
        return r.u64();
    }
    let mut bytes = [0; 8];
    bytes[0] = first;
    let more = r.bytes(extra as usize)?;
    bytes[1..=more.len()].copy_from_slice(more);
    Ok(u64::from_le_bytes(bytes) >> (extra + 1))
}

/// Reads a signed integer: the lowest bit is the sign, the others are the value, inverted if negative.
pub(crate) fn read_signed(r: &mut Reader<'_>) -> Result<i64> {
    let word = read(r)?;
    let magnitude = (word >> 1) as i64;
    Ok(if word & 1 == 0 { magnitude } else { !magnitude })
}

/// Reads a string of at most `limit` bytes: its length, then its bytes.
pub(crate) fn read_bytes<'a>(r: &mut Reader<'a>, what: &'static str, limit: usize) -> Result<&'a [u8]> {
    let len = read(r)?;
    match usize::try_from(len) {
        Ok(len) if len <= limit => r.bytes(len),
        _ => Err(WireError::invalid(what, format!("a string of {len} bytes; at most {limit} are allowed"))),
    }
}

/// Appends an unsigned integer in as few bytes as it takes.
pub(crate) fn write(out: &mut Vec<u8>, value: u64) {
    let bits = u64::BITS - value.leading_zeros();
    if bits > 56 {
        out.push(0xff);
        out.extend_from_slice(&value.to_le_bytes());
        return;
    }
    // Each byte carries seven bits of the value, whichever byte holds the length.
    let extra = bits.saturating_sub(1) / 7;
    let word = (value << (extra + 1)) | ((1 << extra) - 1);
    out.extend_from_slice(&word.to_le_bytes()[..=extra as usize]);
}

/// Appends a string: its length, then its bytes.
pub(crate) fn write_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    write(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(value: u64) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, value);
        out
    }

    #[test]
    fn observed_values_are_encoded_as_mysql_does() {
        assert_eq!(written(0x76), [0xec]);
        assert_eq!(written(0x87), [0x1d, 0x02]);
        assert_eq!(written(90_704), [0x83, 0x12, 0x0b]);
        assert_eq!(written(0), [0]);
        assert_eq!(written(u64::MAX), [0xff; 9]);
        assert_eq!(written((1 << 56) - 1).len(), 8);
        assert_eq!(written(1 << 56).len(), 9);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in any::<u64>(), shift in 0u32..64) {
            let value = value >> shift;
            let out = written(value);
            let mut r = Reader::new("test", &out);
            prop_assert_eq!(read(&mut r).unwrap(), value);
            prop_assert!(r.is_empty());
            let signed = value as i64;
            let zigzag = ((signed << 1) ^ (signed >> 63)) as u64;
            prop_assert_eq!(read_signed(&mut Reader::new("test", &written(zigzag))).unwrap(), signed);
        }

        #[test]
        fn noise_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let _ = read(&mut Reader::new("test", &bytes));
            let _ = read_bytes(&mut Reader::new("test", &bytes), "test", 5);
        }
    }
}
