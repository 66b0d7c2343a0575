//! XA transactions: their identifiers, and the XA_PREPARE event that ends their first half.
//!
//! Format: `XA_prepare_log_event` and `Gtid_log_event` in MariaDB's `sql/log_event.h`; `XA_prepare_event` of MySQL is alike.

use std::fmt;

use crate::error::{Result, WireError};
use crate::read::Reader;

/// Longest global transaction id, and longest branch qualifier (the XA specification's MAXGTRIDSIZE and MAXBQUALSIZE).
const MAX_PART: usize = 64;

/// Identifier of an XA transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Xid {
    /// Says how the rest is to be understood; 1 unless the client chose another.
    pub format_id: u32,
    gtrid_len: u8,
    bqual_len: u8,
    data: [u8; 2 * MAX_PART],
}

impl Xid {
    /// An identifier of two parts of at most 64 bytes each.
    pub fn new(format_id: u32, gtrid: &[u8], bqual: &[u8]) -> Result<Self> {
        let mut data = [0; 2 * MAX_PART];
        let len = gtrid.len() + bqual.len();
        if gtrid.len() > MAX_PART || bqual.len() > MAX_PART {
            return Err(WireError::invalid(
                "xid",
                format!("parts of {} and {} bytes; at most 64 are allowed", gtrid.len(), bqual.len()),
            ));
        }
        data[..gtrid.len()].copy_from_slice(gtrid);
        data[gtrid.len()..len].copy_from_slice(bqual);
        Ok(Self { format_id, gtrid_len: gtrid.len() as u8, bqual_len: bqual.len() as u8, data })
    }

    /// The global transaction id.
    pub fn gtrid(&self) -> &[u8] {
        &self.data[..usize::from(self.gtrid_len)]
    }

    /// The branch qualifier.
    pub fn bqual(&self) -> &[u8] {
        &self.data[usize::from(self.gtrid_len)..usize::from(self.gtrid_len) + usize::from(self.bqual_len)]
    }
}

impl fmt::Display for Xid {
    /// As servers write it: `X'7831',X'',1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [self.gtrid(), self.bqual()] {
            f.write_str("X'")?;
            for byte in part {
                write!(f, "{byte:02x}")?;
            }
            f.write_str("',")?;
        }
        write!(f, "{}", self.format_id)
    }
}

impl fmt::Debug for Xid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Ends the event group of an XA transaction that was prepared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XaPrepare {
    /// `XA COMMIT ... ONE PHASE`: the transaction is committed, not only prepared.
    pub one_phase: bool,
    /// The transaction.
    pub xid: Xid,
}

impl XaPrepare {
    /// Reads an event's body.
    pub fn parse(body: &[u8]) -> Result<Self> {
        let mut r = Reader::new("xa prepare event", body);
        let one_phase = r.u8()? != 0;
        let format_id = r.u32()?;
        let (gtrid, bqual) = (r.u32()? as usize, r.u32()? as usize);
        let xid = Xid::new(format_id, r.bytes(gtrid)?, r.bytes(bqual)?)?;
        Ok(Self { one_phase, xid })
    }

    /// The body.
    pub fn body(&self) -> Vec<u8> {
        let (gtrid, bqual) = (self.xid.gtrid(), self.xid.bqual());
        let mut out = vec![u8::from(self.one_phase)];
        out.extend_from_slice(&self.xid.format_id.to_le_bytes());
        out.extend_from_slice(&(gtrid.len() as u32).to_le_bytes());
        out.extend_from_slice(&(bqual.len() as u32).to_le_bytes());
        out.extend_from_slice(gtrid);
        out.extend_from_slice(bqual);
        out
    }
}
