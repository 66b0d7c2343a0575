//! A bounds-checked little-endian reader over a byte slice: every parser in this crate reads through it, so none can panic.

use crate::error::{Result, WireError};

/// Reads little-endian fields from the front of a slice.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads `bytes`; errors will name `what`.
    pub fn new(what: &'static str, bytes: &'a [u8]) -> Self {
        Self { what, rest: bytes }
    }

    /// What is left unread.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Number of unread bytes.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Result<&'a [u8]> {
        if self.rest.len() < n {
            return Err(WireError::Truncated { what: self.what, need: n, have: self.rest.len() });
        }
        let (head, tail) = self.rest.split_at(n);
        self.rest = tail;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.bytes(N)?);
        Ok(out)
    }

    /// Everything that is left.
    pub fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(self.bytes(1)?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Three bytes.
    pub fn u24(&mut self) -> Result<u32> {
        let b: [u8; 3] = self.array()?;
        Ok(u32::from_le_bytes([b[0], b[1], b[2], 0]))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Six bytes.
    pub fn u48(&mut self) -> Result<u64> {
        let b: [u8; 6] = self.array()?;
        Ok(u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], 0, 0]))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length-encoded integer (MySQL internals, "Protocol::LengthEncodedInteger"); `None` stands for NULL (`0xfb`).
    pub fn lenenc(&mut self) -> Result<Option<u64>> {
        match self.u8()? {
            0xfb => Ok(None),
            0xfc => Ok(Some(u64::from(self.u16()?))),
            0xfd => Ok(Some(u64::from(self.u24()?))),
            0xfe => Ok(Some(self.u64()?)),
            0xff => Err(WireError::invalid(self.what, "0xff cannot begin a length-encoded integer")),
            small => Ok(Some(u64::from(small))),
        }
    }

    /// A length-encoded string; `None` stands for NULL.
    pub fn lenenc_bytes(&mut self) -> Result<Option<&'a [u8]>> {
        let Some(len) = self.lenenc()? else { return Ok(None) };
        let len = usize::try_from(len)
            .map_err(|_| WireError::invalid(self.what, format!("length {len} does not fit memory")))?;
        self.bytes(len).map(Some)
    }

    /// Bytes up to a NUL, which is consumed and not returned.
    pub fn nul_terminated(&mut self) -> Result<&'a [u8]> {
        let Some(end) = self.rest.iter().position(|b| *b == 0) else {
            return Err(WireError::Truncated { what: self.what, need: self.rest.len() + 1, have: self.rest.len() });
        };
        let out = self.bytes(end)?;
        self.bytes(1)?;
        Ok(out)
    }
}
